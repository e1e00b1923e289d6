// The page of all features: figures of each run, the filters, the table.
(function (vasae) {
  "use strict";
  const { h, grid, runs, search, filters, table, format } = vasae;
  let leave = () => {};

  const HEADS = [
    "Run",
    "Features",
    "Variance explained",
    "First name holds",
    "All names hold",
    "First name holds by test",
  ];

  // The head of the page: a line of figures for each run.
  function summary() {
    const head = h(
      "h1",
      {},
      `${format.count(runs.total)} features, each with the tokens it should fire at`,
    );
    const withShuffled = (share, shuffled) => [
      format.share(share),
      h("small", {}, `shuffled ${format.share(shuffled)}`),
    ];
    const rows = runs.all
      .slice(0, 12)
      .map(({ label, features, scores, variance_explained: ve }) => [
        h("th", { scope: "row" }, label),
        format.count(features),
        `${(ve * 100).toFixed(1)}%`,
        withShuffled(scores.hold1, scores.shuffled1),
        withShuffled(scores.hold10, scores.shuffled10),
        format.share(scores.holds),
      ]);
    return h(
      "section",
      { class: "summary" },
      head,
      h(
        "p",
        {},
        "A layer name says at or before which token a feature should fire. What it holds is counted: ",
        "the share of the feature's activation that is there, on held-out text.",
      ),
      grid(HEADS, rows, "figures-table"),
    );
  }

  function show(main, query) {
    const state = filters.readState(query);
    const parts = {
      state,
      controls: filters.make(state, (name, value) => change(name, value)),
      table: table.make((key) => sortBy(key)),
    };
    const update = (searching) => refresh(parts, searching);
    const save = () => history.replaceState(null, "", filters.writeState(state));
    function change(name, value) {
      state[name] = value;
      save();
      update(name === "q");
    }
    function sortBy(key) {
      const same = state.sort === key;
      state.down = same
        ? state.down === "1"
          ? "0"
          : "1"
        : key === "feature" || key === "name"
          ? "0"
          : "1";
      state.sort = key;
      save();
      update(false);
    }
    main.replaceChildren(
      summary(),
      parts.controls.element,
      parts.controls.count,
      parts.table.element,
    );
    leave = listen(parts);
    loadAll(parts, update).catch(vasae.complain);
  }

  // Runs are loaded one by one; the first is on the page before the others are read.
  async function loadAll(parts, update) {
    for (const run of runs.all) {
      const fresh = !run.table;
      await runs.loadTable(run);
      if (!parts.table.element.isConnected) return;
      if (fresh || run === runs.all[runs.all.length - 1]) {
        parts.last = null;
        update(false);
      }
      await new Promise((resolve) => setTimeout(resolve));
    }
    for (const run of runs.all) await search.loadText(run);
    if (parts.state.q) update(true);
  }

  async function refresh(parts, searching) {
    const { state } = parts;
    const number = (parts.refreshes || 0) + 1;
    parts.refreshes = number;
    const query = state.q.toLowerCase();
    if (!searching || !parts.pass) parts.pass = filters.passing(state);
    if (!query) parts.last = null;
    else if (!parts.last || parts.last.query !== query) {
      const request = {
        query,
        order: filters.sortedRows(state.sort, state.down === "1"),
        pass: parts.pass,
        room: table.room(parts.table),
        previous: parts.last,
        cancelled: () => number !== parts.refreshes,
      };
      const last = await search.find(request, (early) => put(parts, early, "at least "));
      if (!last) return; // more was typed
      parts.last = last;
    }
    put(parts, parts.last && parts.last.ranks);
    performance.mark("vasae-counted");
  }

  // Draw the rows that pass and, if there is a search, were found.
  function put(parts, ranks, atLeast = "") {
    const { state } = parts;
    filters.showOnly(parts.controls, state);
    const order = filters.sortedRows(state.sort, state.down === "1");
    const { rows, first } = filters.choose(order, parts.pass, ranks);
    table.show(parts.table, rows, state.sort, state.down === "1");
    const others = rows.length > first ? " first, then by other names and examples" : "";
    const named = first ? `, ${format.count(first)} by a layer name${others}` : "";
    const more =
      rows.length > table.MAX_ROWS ? `; the first ${format.count(table.MAX_ROWS)} are listed` : "";
    parts.controls.count.textContent = `${atLeast}${format.count(rows.length)} of ${format.count(runs.total)} features${named}${more}`;
    parts.table.element.classList.toggle("none", rows.length === 0);
    performance.mark("vasae-shown");
  }

  function listen(parts) {
    let pending = false;
    const draw = () => {
      if (pending) return;
      pending = true;
      requestAnimationFrame(() => {
        pending = false;
        parts.table.draw();
      });
    };
    const resize = () => put(parts, parts.last && parts.last.ranks);
    const slash = (event) => {
      if (event.key !== "/" || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      event.preventDefault();
      parts.controls.search.focus();
    };
    addEventListener("scroll", draw, { passive: true });
    addEventListener("resize", resize);
    addEventListener("keydown", slash);
    return () => {
      removeEventListener("scroll", draw);
      removeEventListener("resize", resize);
      removeEventListener("keydown", slash);
    };
  }

  vasae.features = { show, leave: () => leave() };
})((window.vasae = window.vasae || {}));
