// Which lines of a text hold what is typed. Every feature has a line, and so has every token.
(function (vasae) {
  "use strict";
  const { panels, store } = vasae;
  const vocabularies = new Map();

  async function loadText(panel) {
    if (!panel.text) panel.text = cut(await store.load(`${panel.key}/text`), panel.features);
  }

  // A text of `count` lines, with the place at which each begins, and one past the last.
  function cut(text, count) {
    const starts = new Int32Array(count + 1);
    for (let line = 1; line < count; line += 1)
      starts[line] = text.indexOf("\n", starts[line - 1]) + 1;
    starts[count] = text.length + 1;
    return { text, starts };
  }

  // Set 2 in `found` (by row) for each feature of `panel` of which a name in the table holds
  // `query`, and 3 if the query is its number.
  function names(panel, query, found) {
    const hit = tokensWith(panel, query);
    const { values, width } = panel.table.names;
    for (let at = 0; at < values.length; at += 1)
      if (hit[values[at]]) found[panel.base + Math.floor(at / width)] = 2;
    const number = /^#?(\d+)$/.exec(query.trim());
    if (number && Number(number[1]) < panel.features) found[panel.base + Number(number[1])] = 3;
  }

  // 1 for each token of the panel's vocabulary that holds `query`.
  function tokensWith(panel, query) {
    const key = panel.vocabKey;
    if (!vocabularies.has(key)) vocabularies.set(key, { lines: typed(panel.vocab), query: null });
    const own = vocabularies.get(key);
    if (own.query !== query) {
      const hit = new Uint8Array(panel.vocab.length);
      if (own.query !== null && query.startsWith(own.query)) narrow(own.lines, query, hit, own.hit);
      else scan(own.lines, query, hit);
      Object.assign(own, { query, hit });
    }
    return own.hit;
  }

  // Tokens as one types them: small letters, a space for a space and for a line's end.
  function typed(vocab) {
    const text = vocab.join("\n").replaceAll("␣", " ").replaceAll("\\x0a", " ");
    return cut(text.toLowerCase(), vocab.length);
  }

  // Set 1 in `found` for each feature of `panel` whose line holds `query` and that has no rank
  // yet; of those in `among` alone, which are few, if it is given.
  function text(panel, query, found, among) {
    const own = (rows) => rows.subarray(panel.base, panel.base + panel.features);
    if (among) narrow(panel.text, query, own(found), own(among));
    else scan(panel.text, query, own(found));
  }

  // Line by line, of those in `among`.
  function narrow(lines, query, hit, among) {
    for (let line = 0; line < hit.length; line += 1)
      if (among[line] && !hit[line] && holds(lines, line, query)) hit[line] = 1;
  }

  function holds({ text, starts }, line, query) {
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

  // Whether the line of one row holds `query`.
  function row(number, query) {
    const { panel, feature } = panels.locate(number);
    return holds(panel.text, feature, query);
  }

  vasae.search = { loadText, names, text, row };
})((window.vasae = window.vasae || {}));
