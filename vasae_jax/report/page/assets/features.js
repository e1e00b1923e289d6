// The page of all features.
(function (vasae) {
  "use strict";
  const { panels, search, rank, table, controls, format } = vasae;
  const SLICE = 12; // milliseconds of searching before the page may react again
  const FEW = 2; // of so many features at most one was found: the next letters look at these
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
      state.down = same
        ? state.down === "1"
          ? "0"
          : "1"
        : key === "feature" || key === "name"
          ? "0"
          : "1";
      state.sort = key;
      keep();
      update(false);
    }
    main.replaceChildren(
      vasae.lead(),
      parts.controls.element,
      parts.controls.count,
      parts.table.element,
    );
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
        await turnTaken();
        if (turn !== parts.turn) return null;
        began = performance.now();
      }
    }
    let count = 0;
    for (let row = 0; row < found.length; row += 1) count += found[row] > 0;
    return { query, found, few: count < panels.total / FEW };
  }

  function put(parts) {
    const { state } = parts;
    const { rows, first } = rank.choose(
      rank.order(state.sort, state.down === "1"),
      parts.pass,
      parts.last && parts.last.found,
    );
    table.show(parts.table, rows, state.sort, state.down === "1");
    const named = first ? `, ${format.count(first)} by a layer name first` : "";
    const more =
      rows.length > table.MOST ? `; the first ${format.count(table.MOST)} are listed` : "";
    parts.controls.count.textContent = `${format.count(rows.length)} of ${format.count(panels.total)} features${named}${more}`;
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

  vasae.features = { show, leave: () => leave() };
})((window.vasae = window.vasae || {}));
