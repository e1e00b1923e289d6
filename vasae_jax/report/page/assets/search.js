// Finding what is typed: every feature has a line of text, and so has every token.
// Names first, then as many rows as are in view, then all others.
(function (vasae) {
  "use strict";
  const { runs, store } = vasae;
  const SLICE = 12; // milliseconds of searching before the page may react again
  const PEEK = 4; // milliseconds spent on the rows in view alone
  const FEW = 0.5; // of the features
  const vocabularies = new Map();

  async function loadText(run) {
    if (!run.text) run.text = cut(await store.load(`${run.key}/text`), run.features);
  }

  // A text of `count` lines, with the place at which each begins, and one past the last.
  function cut(text, count) {
    const starts = new Int32Array(count + 1);
    for (let line = 1; line < count; line += 1)
      starts[line] = text.indexOf("\n", starts[line - 1]) + 1;
    starts[count] = text.length + 1;
    return { text, starts };
  }

  // Set the rank (by row) of each feature of `run` to 2 if a name in the table contains
  // `query`, and to 3 if the query is its number.
  function rankNames(run, query, ranks) {
    const hit = tokensWith(run, query);
    const { values, width } = run.table.names;
    for (let at = 0; at < values.length; at += 1)
      if (hit[values[at]]) ranks[run.base + Math.floor(at / width)] = 2;
    const number = /^#?(\d+)$/.exec(query.trim());
    if (number && Number(number[1]) < run.features) ranks[run.base + Number(number[1])] = 3;
  }

  // 1 for each token of the run's vocabulary that contains `query`.
  function tokensWith(run, query) {
    const key = run.vocabKey;
    if (!vocabularies.has(key)) vocabularies.set(key, { lines: typed(run.vocab), query: null });
    const vocabulary = vocabularies.get(key);
    if (vocabulary.query !== query) {
      const hit = new Uint8Array(run.vocab.length);
      const { lines, query: previous } = vocabulary;
      if (previous !== null && query.startsWith(previous)) narrow(lines, query, hit, vocabulary.hit);
      else scan(lines, query, hit);
      Object.assign(vocabulary, { query, hit });
    }
    return vocabulary.hit;
  }

  // Tokens as one types them: small letters, a space for a space and for a line's end.
  function typed(vocab) {
    const text = vocab.join("\n").replaceAll("␣", " ").replaceAll("\\x0a", " ");
    return cut(text.toLowerCase(), vocab.length);
  }

  // Set the rank of each feature of `run` that has none and whose line contains `query` to 1;
  // where `among` is given, only features with a rank there are looked at.
  function rankText(run, query, ranks, among) {
    const part = (rows) => rows.subarray(run.base, run.base + run.features);
    if (among) narrow(run.text, query, part(ranks), part(among));
    else scan(run.text, query, part(ranks));
  }

  // Line by line, of those in `among`.
  function narrow(lines, query, hit, among) {
    for (let line = 0; line < hit.length; line += 1)
      if (among[line] && !hit[line] && contains(lines, line, query)) hit[line] = 1;
  }

  function contains({ text, starts }, line, query) {
    return text.slice(starts[line], starts[line + 1]).includes(query);
  }

  // From hit to hit, past lines that are hit already.
  function scan({ text, starts }, query, hit) {
    for (let line = 0; line < hit.length; line += 1) {
      if (hit[line]) continue;
      const at = text.indexOf(query, starts[line]);
      if (at < 0) return;
      line = lineOf(starts, at, line);
      if (!hit[line]) hit[line] = 1;
    }
  }

  // The line that place `at` lies in, from line `low` on: steps that double, then halves.
  function lineOf(starts, at, low) {
    let step = 1;
    while (low + step < starts.length && starts[low + step] <= at) {
      low += step;
      step *= 2;
    }
    let high = Math.min(low + step, starts.length - 1);
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (starts[middle] <= at) low = middle;
      else high = middle;
    }
    return low;
  }

  // Whether the line of one row contains `query`.
  function rowContains(row, query) {
    const { run, feature } = runs.locate(row);
    return contains(run.text, feature, query);
  }

  // The result of a search, {query, ranks of the rows, few}; null once `request.cancelled()`, when
  // more was typed. `early` is called with the ranks once the first `request.room` rows are certain.
  //   order, pass: rows in the order in which they are shown, and 1 for those that may be.
  //   previous: the result of the search before.
  async function find(request, early) {
    const { query, previous, cancelled } = request;
    for (const run of runs.all) {
      await runs.loadTable(run);
      await loadText(run);
      if (cancelled()) return null;
    }
    const ranks = new Uint8Array(runs.total);
    const narrows = previous && previous.few && query.startsWith(previous.query);
    const among = narrows ? previous.ranks : null;
    for (const run of runs.all) rankNames(run, query, ranks);
    if (rankRowsInView(request, ranks, among)) {
      early(ranks);
      await nextTask();
    }
    let began = performance.now();
    for (const run of runs.all) {
      if (cancelled()) return null;
      rankText(run, query, ranks, among);
      if (performance.now() - began > SLICE) {
        await nextTask();
        began = performance.now();
      }
    }
    return cancelled() ? null : { query, ranks, few: areFew(ranks) };
  }

  // Whether few enough rows have a rank to look for the next letters in them, line by line.
  function areFew(ranks) {
    let count = 0;
    for (let row = 0; row < ranks.length; row += 1) count += ranks[row] > 0;
    return count < ranks.length * FEW;
  }

  // Rank the rows in view, and say whether all of these are certain. Those with a name come first;
  // then, in the order in which they are shown, those whose line contains the query.
  function rankRowsInView({ query, order, pass, room }, ranks, among) {
    let left = room;
    for (let row = 0; row < ranks.length && left > 0; row += 1)
      if (ranks[row] && pass[row]) left -= 1;
    const until = performance.now() + PEEK;
    for (let at = 0; left > 0 && at < order.length; at += 1) {
      const row = order[at];
      if (at % 64 === 0 && performance.now() > until) break;
      if (ranks[row] || !pass[row] || (among && !among[row])) continue;
      if (rowContains(row, query)) {
        ranks[row] = 1;
        left -= 1;
      }
    }
    return left <= 0;
  }

  // Resolves once what waits in the page's queue was done: without the pause that timers take.
  function nextTask() {
    return new Promise((resolve) => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        channel.port1.close();
        resolve();
      };
      channel.port2.postMessage(0);
    });
  }

  vasae.search = { loadText, find };
})((window.vasae = window.vasae || {}));
