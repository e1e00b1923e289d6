// The table of features: only the rows in view are elements.
(function (vasae) {
  "use strict";
  const { h, runs, format, plots, tokens } = vasae;
  const MAX_ROWS = 100000; // rows; browsers do not draw pages of any height
  const EXTRA = 8;
  const COLUMNS = [
    { key: "feature", title: "Feature", help: "The number of the feature" },
    {
      key: "name",
      title: "Layer names",
      help: "The tokens at which, or before which, it should fire, and what each holds",
    },
    {
      key: "hold",
      title: "Held",
      help: "Share of its activation that its first name holds; the tick is what other features' hold",
    },
    {
      key: "cosine",
      title: "By embedding",
      help: "The token whose embedding is nearest to its decoder row, and the cosine",
    },
    { key: "rate", title: "Fires", help: "Share of held-out rows on which it fires" },
    { key: "", title: "Activations", help: "How strongly it fires, from weak to strong" },
  ];

  function make(onSort) {
    const heads = COLUMNS.map((column) => head(column, onSort));
    const space = h("div", { class: "space-rows", role: "rowgroup" });
    const element = h(
      "div",
      { class: "features", role: "table", "aria-label": "Features" },
      h("div", { class: "head", role: "row" }, heads),
      space,
    );
    const view = { element, space, heads, rows: new Uint32Array(0), drawn: new Map() };
    view.draw = () => draw(view);
    space.addEventListener("keydown", (event) => step(view, event));
    return view;
  }

  function head(column, onSort) {
    const label = column.key
      ? h(
          "button",
          { type: "button", title: column.help, onclick: () => onSort(column.key) },
          column.title,
        )
      : h("span", { title: column.help }, column.title);
    return h("div", { role: "columnheader", class: `c-${column.key || "spark"}` }, label);
  }

  function show(view, rows, sort, down) {
    view.rows = rows.length > MAX_ROWS ? rows.subarray(0, MAX_ROWS) : rows;
    COLUMNS.forEach((column, i) => {
      const direction = down ? "descending" : "ascending";
      if (column.key === sort) view.heads[i].setAttribute("aria-sort", direction);
      else view.heads[i].removeAttribute("aria-sort");
    });
    view.element.setAttribute("aria-rowcount", view.rows.length + 1);
    view.height = parseFloat(getComputedStyle(view.element).getPropertyValue("--row"));
    view.space.style.height = `${view.rows.length * view.height}px`;
    for (const [place, { number, element }] of view.drawn) {
      if (number === view.rows[place]) continue; // as it was
      element.remove();
      view.drawn.delete(place);
    }
    draw(view);
  }

  // How many rows the page has room for, from the first to the last that is drawn.
  function room(view) {
    const top = -view.space.getBoundingClientRect().top;
    return Math.ceil((top + innerHeight) / view.height) + EXTRA;
  }

  function draw(view) {
    if (!view.height || !view.element.isConnected) return;
    const top = -view.space.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / view.height) - EXTRA);
    const last = Math.min(view.rows.length, room(view));
    for (const [place, { element }] of view.drawn) {
      if (place < first || place >= last) {
        element.remove();
        view.drawn.delete(place);
      }
    }
    for (let place = first; place < last; place += 1) {
      if (!view.drawn.has(place)) add(view, place);
    }
  }

  // Rows stay in the order of their places, so that the tab key goes down the page.
  function add(view, place) {
    const number = view.rows[place];
    const element = row(number, place, view.height);
    let next = place + 1;
    const end = place + 2 * EXTRA + 200;
    while (next < end && !view.drawn.has(next)) next += 1;
    view.space.insertBefore(element, view.drawn.has(next) ? view.drawn.get(next).element : null);
    view.drawn.set(place, { number, element });
  }

  function row(number, place, height) {
    const { run, feature } = runs.locate(number);
    const { table } = run;
    const cell = (name, ...children) => h("div", { role: "cell", class: `c-${name}` }, children);
    const rate = table.rate.values[feature];
    const element = h(
      "div",
      { role: "row", class: rate ? "row" : "row dead", "aria-rowindex": place + 2 },
      cell(
        "feature",
        h("a", { href: runs.link(run, feature), "data-place": place }, feature),
        runs.all.length > 1 ? h("small", {}, run.label) : null,
      ),
      cell("name", layerNames(run, feature)),
      cell("hold", held(table, feature)),
      cell(
        "cosine",
        tokens.chip(run.vocab[table.token.values[feature]]),
        h("small", {}, format.cosine(table.cosine.values[feature])),
      ),
      cell("rate", format.rate(rate)),
      cell("spark", plots.spark(vasae.store.line(table.spark, feature))),
    );
    element.style.transform = `translateY(${place * height}px)`;
    return element;
  }

  function layerNames(run, feature) {
    const names = runs.layerNames(run, feature);
    if (!names.length) return [h("span", { class: "quiet" }, "no tested name")];
    return [
      h("span", { class: "relation" }, format.relation(run.table.relation.values[feature])),
      names.map(({ text, hold }) =>
        h("span", { class: "named" }, tokens.chip(text), h("small", {}, format.share(hold))),
      ),
    ];
  }

  function held(table, feature) {
    const verdict = table.verdict.values[feature];
    return [
      plots.bar(table.hold.values[feature], table.shuffled.values[feature]),
      h("span", { class: "number" }, format.share(table.hold.values[feature])),
      h("small", { class: format.verdictClass(verdict) }, format.verdict(verdict)),
    ];
  }

  // Up and down go from row to row, also to those that are not drawn yet.
  function step(view, event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const from = event.target.closest("[data-place]");
    if (!by || !from) return;
    const place = Number(from.dataset.place) + by;
    if (place < 0 || place >= view.rows.length) return;
    event.preventDefault();
    if (!view.drawn.has(place)) add(view, place);
    const { element } = view.drawn.get(place);
    element.querySelector("a").focus({ preventScroll: true });
    element.scrollIntoView({ block: "nearest" });
  }

  vasae.table = { make, show, room, MAX_ROWS };
})((window.vasae = window.vasae || {}));
