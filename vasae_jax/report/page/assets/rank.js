// Which rows are shown, in which order.
(function (vasae) {
  "use strict";
  const { panels, format } = vasae;
  const ROWS = 2 ** 21; // more than there are rows: a key and a row share the 53 bits of a number
  const orders = new Map();
  const bits = new Float32Array(1);
  const word = new Uint32Array(bits.buffer);

  // Whole numbers in the order of floats.
  function rankOf(value) {
    bits[0] = value;
    return word[0] >>> 31 ? ~word[0] >>> 0 : (word[0] | 0x80000000) >>> 0;
  }

  function alphabet(panel) {
    if (!panel.alphabet) {
      const ids = panel.vocab.map((_, id) => id);
      ids.sort((a, b) => (panel.vocab[a] < panel.vocab[b] ? -1 : 1));
      panel.alphabet = new Float32Array(ids.length);
      ids.forEach((id, place) => (panel.alphabet[id] = place));
    }
    return panel.alphabet;
  }

  const KEYS = {
    feature: () => (feature) => feature,
    name: (panel) => {
      const places = alphabet(panel);
      const { values, width } = panel.table.names;
      return (feature) => places[values[feature * width]];
    },
    hold: (panel) => (feature) => panel.table.hold.values[feature],
    cosine: (panel) => (feature) => panel.table.cosine.values[feature],
    rate: (panel) => (feature) => panel.table.rate.values[feature],
  };

  // All rows of the loaded panels, sorted; kept, since filters change more often than the order.
  function order(sort, down) {
    const loaded = panels.all.filter((panel) => panel.table);
    const name = `${sort} ${down} ${loaded.map((panel) => panel.key)}`;
    if (!orders.has(name)) {
      if (orders.size > 6) orders.clear();
      orders.set(name, sorted(loaded, sort, down));
    }
    return orders.get(name);
  }

  function sorted(loaded, sort, down) {
    const packed = new Float64Array(loaded.reduce((sum, panel) => sum + panel.features, 0));
    const sign = down ? -1 : 1;
    let at = 0;
    for (const panel of loaded) {
      const key = KEYS[sort](panel);
      for (let feature = 0; feature < panel.features; feature += 1) {
        packed[at] = rankOf(sign * key(feature)) * ROWS + panel.base + feature;
        at += 1;
      }
    }
    packed.sort();
    return Uint32Array.from(packed, (value) => value % ROWS);
  }

  // 1 for each row that passes the filters.
  function passing(filters) {
    const pass = new Uint8Array(panels.total);
    const verdict = { holds: 1, none: 0, contradicted: -1 }[filters.verdict];
    const relation = { at: 0, before: 1 }[filters.relation];
    const least = { all: 0, alive: 1e-12 }[filters.fires] ?? Number(filters.fires) / 100;
    for (const panel of panels.all) {
      if (!panel.table || (filters.panel !== "all" && filters.panel !== panel.key)) continue;
      const { table } = panel;
      for (let feature = 0; feature < panel.features; feature += 1) {
        if (table.rate.values[feature] < least) continue;
        if (verdict !== undefined && table.verdict.values[feature] !== verdict) continue;
        if (relation !== undefined && table.relation.values[feature] !== relation) continue;
        if (filters.bucket && format.bucket(table.cosine.values[feature]) !== filters.bucket)
          continue;
        pass[panel.base + feature] = 1;
      }
    }
    return pass;
  }

  // The rows to show: those of `sortedRows` that pass. If there is a search, those that were
  // found, and first those of which more than the text around them was.
  function choose(sortedRows, pass, found) {
    const counts = [0, 0, 0, 0]; // by what was found
    const rankAt = (row) => (pass[row] ? (found ? found[row] : 1) : 0);
    for (let at = 0; at < sortedRows.length; at += 1) counts[rankAt(sortedRows[at])] += 1;
    const next = [0, counts[3] + counts[2], counts[3], 0];
    const rows = new Uint32Array(counts[1] + next[1]);
    for (let at = 0; at < sortedRows.length; at += 1) {
      const row = sortedRows[at];
      const rank = rankAt(row);
      if (rank) {
        rows[next[rank]] = row;
        next[rank] += 1;
      }
    }
    return { rows, first: found ? counts[3] + counts[2] : 0 };
  }

  vasae.rank = { order, passing, choose };
})((window.vasae = window.vasae || {}));
