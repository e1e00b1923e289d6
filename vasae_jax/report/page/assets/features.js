// The page of all features.
(function (vasae) {
  "use strict";
  const { panels, search, find, rank, table, controls, format } = vasae;
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
    const turn = (parts.turn || 0) + 1;
    parts.turn = turn;
    const query = state.q.toLowerCase();
    if (!searching || !parts.pass) parts.pass = rank.passing(state);
    if (!query) parts.last = null;
    else if (!parts.last || parts.last.query !== query) {
      const asked = {
        query,
        order: rank.order(state.sort, state.down === "1"),
        pass: parts.pass,
        room: table.room(parts.table),
        before: parts.last,
        off: () => turn !== parts.turn,
      };
      const last = await find(asked, (early) => put(parts, early, "at least "));
      if (!last) return; // more was typed
      parts.last = last;
    }
    put(parts, parts.last && parts.last.found);
    performance.mark("vasae-counted");
  }

  // Draw the rows that pass and, if there is a search, were `found`.
  function put(parts, found, atLeast = "") {
    const { state } = parts;
    const order = rank.order(state.sort, state.down === "1");
    const { rows, first } = rank.choose(order, parts.pass, found);
    table.show(parts.table, rows, state.sort, state.down === "1");
    const others = rows.length > first ? " first, then by other names and examples" : "";
    const named = first ? `, ${format.count(first)} by a layer name${others}` : "";
    const more =
      rows.length > table.MOST ? `; the first ${format.count(table.MOST)} are listed` : "";
    parts.controls.count.textContent = `${atLeast}${format.count(rows.length)} of ${format.count(panels.total)} features${named}${more}`;
    parts.table.element.classList.toggle("none", rows.length === 0);
    performance.mark("vasae-shown");
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
    const resize = () => put(parts, parts.last && parts.last.found);
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
