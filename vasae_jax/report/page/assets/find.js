// Finds what is typed, step by step: names, then as many rows as are in view, then all others.
(function (vasae) {
  "use strict";
  const { panels, search } = vasae;
  const SLICE = 12; // milliseconds of searching before the page may react again
  const FEW = 2; // a half of the features
  const PEEK = 4; // milliseconds spent on the rows in view alone

  // What `asked.query` finds, {query, found: the rank of each row, few}; null once `asked.off()`,
  // when more was typed. `early` is told the ranks once the first `asked.room` rows are certain.
  //   order, pass: rows in the order in which they are shown, and 1 for those that may be.
  //   before: what was found last.
  async function find(asked, early) {
    const { query, before, off } = asked;
    for (const panel of panels.all) {
      await panels.loadTable(panel);
      await search.loadText(panel);
      if (off()) return null;
    }
    const found = new Uint8Array(panels.total);
    const among = before && before.few && query.startsWith(before.query) ? before.found : null;
    for (const panel of panels.all) search.names(panel, query, found);
    if (fills(asked, found, among)) {
      early(found);
      await turnTaken();
    }
    let began = performance.now();
    for (const panel of panels.all) {
      if (off()) return null;
      search.text(panel, query, found, among);
      if (performance.now() - began > SLICE) {
        await turnTaken();
        began = performance.now();
      }
    }
    return off() ? null : { query, found, few: fewer(found) };
  }

  // Whether so few were found that the next letters are best looked for line by line.
  function fewer(found) {
    let count = 0;
    for (let row = 0; row < found.length; row += 1) count += found[row] > 0;
    return count < found.length / FEW;
  }

  // Whether the rows in view are certain. Those with a name come first; then, in the order in
  // which they are shown, those whose line holds the query, which are ranked on the way.
  function fills({ query, order, pass, room }, found, among) {
    let left = room;
    for (let row = 0; row < found.length && left > 0; row += 1)
      if (found[row] && pass[row]) left -= 1;
    const until = performance.now() + PEEK;
    for (let at = 0; left > 0 && at < order.length; at += 1) {
      const row = order[at];
      if (at % 64 === 0 && performance.now() > until) break;
      if (found[row] || !pass[row] || (among && !among[row])) continue;
      if (search.row(row, query)) {
        found[row] = 1;
        left -= 1;
      }
    }
    return left <= 0;
  }

  // Resolves once what waits in the page's queue was done: without the pause that timers take.
  function turnTaken() {
    return new Promise((resolve) => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        channel.port1.close();
        resolve();
      };
      channel.port2.postMessage(0);
    });
  }

  vasae.find = find;
})((window.vasae = window.vasae || {}));
