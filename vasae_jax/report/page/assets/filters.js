// The search field and the filters, and which rows they leave, in which order. What they say is in
// the address, so that it can be sent.
(function (vasae) {
  "use strict";
  const { h, runs, index, format, tokens } = vasae;
  const DEFAULTS = {
    q: "",
    run: "all",
    relation: "",
    verdict: "",
    bucket: "",
    fires: "0.1",
    named: "", // the relation and the token that must be the first name, as 0:123
    sort: "hold",
    down: "1",
  };

  function choices() {
    const least = (value) => [String(value), `on ${value}% of rows or more`];
    return [
      ["run", "Layer", [["all", "all layers"], ...runs.all.map((run) => [run.key, run.label])]],
      [
        "relation",
        "Relation",
        [
          ["", "at or before"],
          ["at", "at its names"],
          ["before", "before its names"],
        ],
      ],
      [
        "verdict",
        "Verdict",
        [
          ["", "any"],
          ["holds", "first name holds"],
          ["part", "in part"],
          ["fails", "does not hold"],
          ["untested", "no tested name"],
        ],
      ],
      [
        "bucket",
        "Embedding",
        [
          ["", "any cosine"],
          ...index.buckets.map(([name, from]) => [name, `${name} (${from} or more)`]),
          ["none", format.bucketWords("none")],
        ],
      ],
      [
        "fires",
        "Fires",
        [["all", "or never"], ["alive", "at all"], least(0.01), least(0.1), least(1)],
      ],
    ].filter(([name]) => name !== "run" || runs.all.length > 1);
  }

  function readState(query) {
    const params = new URLSearchParams(query);
    const state = { ...DEFAULTS };
    for (const name of Object.keys(DEFAULTS)) if (params.has(name)) state[name] = params.get(name);
    const known = choices().map(([name, , options]) => [name, options.map(([value]) => value)]);
    known.push(["sort", Object.keys(KEYS)], ["down", ["0", "1"]]);
    if (runs.all.length < 2) known.push(["run", ["all"]]);
    for (const [name, values] of known)
      if (!values.includes(state[name])) state[name] = DEFAULTS[name];
    return state;
  }

  function writeState(state) {
    const changed = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
    const query = new URLSearchParams(changed).toString();
    return `#/features${query ? `?${query}` : ""}`;
  }

  function make(state, onChange) {
    const search = h("input", {
      type: "search",
      id: "search",
      value: state.q,
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "Search names, tokens, contexts",
      "aria-label": "Search names, tokens and contexts",
      oninput: () => onChange("q", search.value),
    });
    const selects = choices().map(([name, title, options]) =>
      h(
        "label",
        {},
        h("span", {}, title),
        h(
          "select",
          { name, onchange: (event) => onChange(name, event.target.value) },
          options.map(([value, text]) =>
            h("option", { value, selected: value === state[name] }, text),
          ),
        ),
      ),
    );
    const only = h("p", { class: "only", hidden: true });
    const count = h("p", { class: "count", role: "status" });
    const element = h(
      "form",
      { class: "controls", role: "search", onsubmit: (event) => event.preventDefault() },
      h("div", { class: "field" }, search, h("kbd", { "aria-hidden": "true" }, "/")),
      h(
        "details",
        { class: "more", open: !matchMedia("(max-width: 720px)").matches },
        h("summary", {}, "Filters"),
        h("div", { class: "filters" }, selects),
      ),
      only,
    );
    return { element, search, count, only, leaveName: () => onChange("named", "") };
  }

  // Say which first name the features must have, once its string is known, and how to see all.
  function showOnly({ only, leaveName }, { named }) {
    const name = parseName(named);
    const run = name && runs.all.find(({ vocab }) => vocab && vocab[name.token] !== undefined);
    only.hidden = !run;
    if (!run) return;
    only.replaceChildren(
      `Only features that should fire ${format.relation(name.relation)} `,
      tokens.chip(run.vocab[name.token]),
      " by their first name. ",
      h("button", { type: "button", class: "plain", onclick: leaveName }, "Show all"),
    );
  }

  // The relation and the token of `named`; null where it says none.
  function parseName(named) {
    if (!/^[01]:\d+$/.test(named)) return null;
    const [relation, token] = named.split(":").map(Number);
    return { relation, token };
  }

  // The address of the features of a run that share the first name of one of them.
  const sharedName = (run, feature) =>
    writeState({
      ...DEFAULTS,
      run: runs.all.length > 1 ? run.key : DEFAULTS.run,
      fires: "all",
      named: `${run.table.relation.values[feature]}:${runs.firstName(run, feature)}`,
    });

  const ROWS = 2 ** 21; // more than there are rows: a key and a row share the 53 bits of a number
  const orders = new Map();
  const bits = new Float32Array(1);
  const word = new Uint32Array(bits.buffer);

  // Whole numbers in the order of floats.
  function rankOf(value) {
    bits[0] = value;
    return word[0] >>> 31 ? ~word[0] >>> 0 : (word[0] | 0x80000000) >>> 0;
  }

  function alphabet(run) {
    if (!run.alphabet) {
      const ids = run.vocab.map((_, id) => id);
      ids.sort((a, b) => (run.vocab[a] < run.vocab[b] ? -1 : 1));
      run.alphabet = new Float32Array(ids.length);
      ids.forEach((id, place) => (run.alphabet[id] = place));
    }
    return run.alphabet;
  }

  const KEYS = {
    feature: () => (feature) => feature,
    name: (run) => {
      const places = alphabet(run);
      const { values, width } = run.table.names;
      return (feature) => places[values[feature * width]] ?? places.length; // without a name: last
    },
    hold: (run) => (feature) => run.table.hold.values[feature],
    cosine: (run) => (feature) => run.table.cosine.values[feature],
    rate: (run) => (feature) => run.table.rate.values[feature],
  };

  // All rows of the loaded runs, sorted; kept, since filters change more often than the order.
  function sortedRows(sort, down) {
    const loaded = runs.all.filter((run) => run.table);
    const name = `${sort} ${down} ${loaded.map((run) => run.key)}`;
    if (!orders.has(name)) {
      if (orders.size > 6) orders.clear();
      orders.set(name, sortRows(loaded, sort, down));
    }
    return orders.get(name);
  }

  function sortRows(loaded, sort, down) {
    const packed = new Float64Array(loaded.reduce((sum, run) => sum + run.features, 0));
    const sign = down ? -1 : 1;
    let at = 0;
    for (const run of loaded) {
      const key = KEYS[sort](run);
      for (let feature = 0; feature < run.features; feature += 1) {
        packed[at] = rankOf(sign * key(feature)) * ROWS + run.base + feature;
        at += 1;
      }
    }
    packed.sort();
    return Uint32Array.from(packed, (value) => value % ROWS);
  }

  // 1 for each row that passes the filters.
  function passing(filters) {
    const pass = new Uint8Array(runs.total);
    const verdict = { holds: 1, part: 2, fails: -1, untested: 0 }[filters.verdict];
    const relation = { at: 0, before: 1 }[filters.relation];
    const name = parseName(filters.named);
    const least = { all: 0, alive: 1e-12 }[filters.fires] ?? Number(filters.fires) / 100;
    for (const run of runs.all) {
      if (!run.table || (filters.run !== "all" && filters.run !== run.key)) continue;
      const { table } = run;
      for (let feature = 0; feature < run.features; feature += 1) {
        if (table.rate.values[feature] < least) continue;
        if (verdict !== undefined && table.verdict.values[feature] !== verdict) continue;
        if (name && runs.firstName(run, feature) !== name.token) continue;
        if (name && table.relation.values[feature] !== name.relation) continue;
        if (relation !== undefined && table.relation.values[feature] !== relation) continue;
        if (filters.bucket && format.bucket(table.cosine.values[feature]) !== filters.bucket)
          continue;
        pass[run.base + feature] = 1;
      }
    }
    return pass;
  }

  // The rows to show: those of `sorted` that pass. If there is a search, those with a
  // rank, the highest first.
  function choose(sorted, pass, ranks) {
    const counts = [0, 0, 0, 0]; // by rank
    const rankAt = (row) => (pass[row] ? (ranks ? ranks[row] : 1) : 0);
    for (let at = 0; at < sorted.length; at += 1) counts[rankAt(sorted[at])] += 1;
    const next = [0, counts[3] + counts[2], counts[3], 0];
    const rows = new Uint32Array(counts[1] + next[1]);
    for (let at = 0; at < sorted.length; at += 1) {
      const row = sorted[at];
      const rank = rankAt(row);
      if (rank) {
        rows[next[rank]] = row;
        next[rank] += 1;
      }
    }
    return { rows, first: ranks ? counts[3] + counts[2] : 0 };
  }

  const shown = { make, showOnly, readState, writeState, sharedName };
  vasae.filters = { ...shown, sortedRows, passing, choose };
})((window.vasae = window.vasae || {}));
