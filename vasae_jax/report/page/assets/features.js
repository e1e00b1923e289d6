// The page of all features.
(function (vasae) {
  "use strict";
  const { h, panels, search, rank, table, controls, format } = vasae;
  const SLICE = 12; // milliseconds of searching before the page may react again
  const FEW = 8; // of every so many features at most one was found: the next letters look at these
  let leave = () => {};

  function show(main, query) {
    const state = controls.read(query);
    const parts = {
      state,
      controls: controls.make(state, (name, value) => change(name, value)),
      table: table.make((key) => sortBy(key)),
    };
    const update = (searching) => refresh(parts, searching);
    const keep = () => history.replaceState(null, "", controls.write(state));
    function change(name, value) {
      state[name] = value;
      keep();
      update(name === "q");
    }
    function sortBy(key) {
      const same = state.sort === key;
      state.down = same ? (state.down === "1" ? "0" : "1") : key === "feature" || key === "name" ? "0" : "1";
      state.sort = key;
      keep();
      update(false);
    }
    main.replaceChildren(lead(), parts.controls.element, parts.controls.count, parts.table.element);
    leave = listen(parts);
    arrive(parts, update).catch(vasae.complain);
  }

  // Panels come in one by one; the first is on the page before the others are read.
  async function arrive(parts, update) {
    for (const panel of panels.all) {
      const fresh = !panel.table;
      await panels.loadTable(panel);
      if (!parts.table.element.isConnected) return;
      if (fresh || panel === panels.all[panels.all.length - 1]) {
        parts.last = null;
        update(false);
      }
      await new Promise((resolve) => setTimeout(resolve));
    }
    for (const panel of panels.all) await search.loadText(panel);
    if (parts.state.q) update(true);
  }

  async function refresh(parts, searching) {
    const { state } = parts;
    parts.turn = (parts.turn || 0) + 1;
    const query = state.q.toLowerCase();
    if (!searching || !parts.pass) parts.pass = rank.passing(state);
    if (!query) parts.last = null;
    else if (searching || !parts.last) {
      const last = await find(parts, query, parts.turn);
      if (!last) return; // more was typed
      parts.last = last;
    }
    put(parts);
    performance.mark("vasae-shown", { detail: { query } });
  }

  // What `query` finds, {query, found by row, few}; null if another turn has begun meanwhile.
  async function find(parts, query, turn) {
    const found = new Uint8Array(panels.total);
    const before = parts.last;
    const among = before && before.few && query.startsWith(before.query) ? before.found : null;
    let began = performance.now();
    for (const panel of panels.all) {
      if (!panel.text) await search.loadText(panel);
      if (turn !== parts.turn) return null;
      search.mark(panel, query, found, among);
      if (performance.now() - began > SLICE) {
        await new Promise((resolve) => setTimeout(resolve));
        if (turn !== parts.turn) return null;
        began = performance.now();
      }
    }
    let count = 0;
    for (const value of found) count += value;
    return { query, found, few: count < panels.total / FEW };
  }

  function put(parts) {
    const { state } = parts;
    const rows = rank.choose(rank.order(state.sort, state.down === "1"), parts.pass, parts.last && parts.last.found);
    table.show(parts.table, rows, state.sort, state.down === "1");
    const more = rows.length > table.MOST ? `; the first ${format.count(table.MOST)} are listed` : "";
    parts.controls.count.textContent =
      `${format.count(rows.length)} of ${format.count(panels.total)} features${more}`;
    parts.table.element.classList.toggle("none", rows.length === 0);
  }

  function listen(parts) {
    let asked = false;
    const draw = () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        parts.table.draw();
      });
    };
    const resize = () => put(parts);
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

  // What the report is about, in a line of figures for each run.
  function lead() {
    const head = h("h1", {}, `${format.count(panels.total)} features, each with the tokens it should fire at`);
    const rows = panels.all.slice(0, 12).map(({ label, key, features, held, variance_explained: ve }) => h("tr", {},
      h("th", { scope: "row" }, label),
      h("td", {}, format.count(features)),
      h("td", {}, `${(ve * 100).toFixed(1)}%`),
      h("td", {}, format.share(held.hold1), h("small", {}, `shuffled ${format.share(held.shuffled1)}`)),
      h("td", {}, format.share(held.hold10), h("small", {}, `shuffled ${format.share(held.shuffled10)}`)),
      h("td", {}, format.share(held.holds))));
    return h("section", { class: "lead" }, head,
      h("p", {}, "A layer name says at or before which token a feature should fire. What it holds is counted: ",
        "the share of the feature's activation that is there, on held-out text."),
      h("div", { class: "scroll" }, h("table", { class: "figures-table" },
        h("thead", {}, h("tr", {}, ["Run", "Features", "Variance explained", "First name holds", "Ten names hold", "Names hold by test"]
          .map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, rows))));
  }

  vasae.features = { show, leave: () => leave() };
})((window.vasae = window.vasae || {}));
