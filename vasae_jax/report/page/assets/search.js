// Search: the text of every feature is one line of a long string, and is searched as it is.
(function (vasae) {
  "use strict";
  const { store } = vasae;
  const MARK = "\x1f"; // in a line, the layer names that the table shows come before it

  async function loadText(panel) {
    if (panel.text) return;
    const text = await store.load(`${panel.key}/text`);
    const starts = new Int32Array(panel.features + 1);
    const marks = new Int32Array(panel.features);
    for (let line = 0; line < panel.features; line += 1) {
      marks[line] = text.indexOf(MARK, starts[line]);
      starts[line + 1] = text.indexOf("\n", marks[line]) + 1;
    }
    starts[panel.features] = text.length + 1;
    panel.text = { text, starts, marks };
  }

  // Set a rank in `found` (by row) for each feature of `panel` whose line holds `query`: 2 if a
  // layer name that the table shows does, else 1; 3 if the query is its number. Of those in
  // `among` alone, if it is given: what was found for the letters typed before.
  function mark(panel, query, found, among) {
    if (among) narrow(panel, query, found, among);
    else scan(panel, query, found);
    const number = /^#?(\d+)$/.exec(query.trim());
    if (number && Number(number[1]) < panel.features) found[panel.base + Number(number[1])] = 3;
  }

  function narrow(panel, query, found, among) {
    const { text, starts, marks } = panel.text;
    for (let line = 0; line < panel.features; line += 1) {
      const row = panel.base + line;
      if (!among[row]) continue;
      const at = text.slice(starts[line], starts[line + 1]).indexOf(query);
      if (at >= 0) found[row] = starts[line] + at < marks[line] ? 2 : 1;
    }
  }

  function scan(panel, query, found) {
    const { text, starts, marks } = panel.text;
    let line = 0;
    let at = text.indexOf(query);
    while (at >= 0) {
      line = lineOf(starts, at, line);
      found[panel.base + line] = at < marks[line] ? 2 : 1;
      if (line + 1 >= panel.features) break;
      at = text.indexOf(query, starts[line + 1]);
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

  vasae.search = { loadText, mark };
})((window.vasae = window.vasae || {}));
