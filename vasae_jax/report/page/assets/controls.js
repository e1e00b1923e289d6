// The search field and the filters. What they say is in the address, so that it can be sent.
(function (vasae) {
  "use strict";
  const { h, panels, index, format } = vasae;
  const DEFAULTS = {
    q: "",
    panel: "all",
    relation: "",
    verdict: "",
    bucket: "",
    fires: "0.1",
    sort: "hold",
    down: "1",
  };

  function choices() {
    const least = (value) => [String(value), `on ${value}% of rows or more`];
    return [
      ["panel", "Layer", [["all", "all layers"], ...panels.all.map((one) => [one.key, one.label])]],
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
          ["holds", "names hold"],
          ["none", "no evidence"],
          ["contradicted", "contradicted"],
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
    ].filter(([name]) => name !== "panel" || panels.all.length > 1);
  }

  function read(query) {
    const given = new URLSearchParams(query);
    const state = { ...DEFAULTS };
    for (const name of Object.keys(DEFAULTS)) if (given.has(name)) state[name] = given.get(name);
    const sorts = ["feature", "name", "hold", "cosine", "rate"];
    if (!sorts.includes(state.sort)) state.sort = DEFAULTS.sort;
    return state;
  }

  function write(state) {
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
    );
    return { element, search, count };
  }

  vasae.controls = { make, read, write };
})((window.vasae = window.vasae || {}));
