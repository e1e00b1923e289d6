// Case studies: the name most active at each token of a sentence, a line for each run.
(function (vasae) {
  "use strict";
  const { h, runs, format, plain, tokens, store } = vasae;
  const KINDS = ["clear", "ambiguous", "boundary", ""];
  const NAMES = { name: "by the layer", embedding: "by embedding" };
  const MODES = { centred: "less its mean", raw: "as it is" };

  async function show(main, key, query) {
    const cases = await store.load("heatmaps");
    if (!cases.length) {
      main.replaceChildren(
        h("h1", {}, "Heatmaps"),
        h(
          "p",
          {},
          "This report was made without its language model. ",
          h("code", {}, "vasae report RUN... --lm MODEL"),
          " draws the sentences of the case study.",
        ),
      );
      return;
    }
    const params = new URLSearchParams(query);
    const state = {
      model: params.get("model") || "",
      kind: params.get("kind") || "",
      topic: params.get("topic") || "",
      mode: params.get("mode") === "raw" ? "raw" : "centred",
      names: params.get("names") === "embedding" ? "embedding" : "name",
    };
    const shown = cases.filter((study) =>
      ["model", "kind", "topic"].every((name) => !state[name] || study[name] === state[name]),
    );
    const current = shown.find((study) => study.key === key) || shown[0] || cases[0];
    const go = (changes) => {
      const next = { ...state, ...changes };
      const kept = Object.entries(next).filter(
        ([name, value]) => value && value !== "centred" && value !== "name" && name !== "key",
      );
      const to = new URLSearchParams(kept).toString();
      location.hash = `#/heatmaps/${changes.key || current.key}${to ? `?${to}` : ""}`;
    };
    document.title = plain(`Heatmap: ${current.text}`);
    main.replaceChildren(
      h("h1", {}, "What is most active at each token"),
      h(
        "p",
        { class: "wide" },
        `A cell holds the name (${NAMES[state.names]}) of the feature most active there: by the layer, the one that fits the token or else the first tested one; `,
        `${MODES[state.mode]}${state.mode === "raw" ? "" : " over the sentence"}. Colour is that activation, on a log scale. A click opens the feature.`,
      ),
      pickers(cases, state, go),
      h(
        "div",
        {},
        KINDS.map((kind) => group(kind, shown, current, go)),
      ),
      draw(current, state),
    );
  }

  function pickers(cases, state, go) {
    const values = (name) => [...new Set(cases.map((study) => study[name]))].filter(Boolean);
    const select = (name, title, all) =>
      values(name).length < 2
        ? null
        : h(
            "label",
            {},
            h("span", {}, title),
            h(
              "select",
              { name, onchange: (event) => go({ [name]: event.target.value }) },
              [["", all], ...values(name).map((value) => [value, value])].map(([value, text]) =>
                h("option", { value, selected: value === state[name] }, text),
              ),
            ),
          );
    return h(
      "div",
      { class: "filters" },
      select("model", "Model", "all models"),
      select("kind", "Case type", "all types"),
      select("topic", "Topic", "all topics"),
      h(
        "label",
        {},
        h("span", {}, "Activation"),
        h(
          "select",
          { name: "mode", onchange: (event) => go({ mode: event.target.value }) },
          Object.entries(MODES).map(([value, text]) =>
            h("option", { value, selected: value === state.mode }, text),
          ),
        ),
      ),
      h(
        "label",
        {},
        h("span", {}, "Names"),
        h(
          "select",
          { name: "names", onchange: (event) => go({ names: event.target.value }) },
          Object.entries(NAMES).map(([value, text]) =>
            h("option", { value, selected: value === state.names }, text),
          ),
        ),
      ),
    );
  }

  function group(kind, shown, current, go) {
    const ofKind = shown.filter((study) => (study.kind || "") === kind);
    if (!ofKind.length) return null;
    return h(
      "div",
      { class: "cases" },
      h("h2", {}, kind ? format.capital(kind) : "Own"),
      ofKind.map((study) =>
        h(
          "button",
          {
            type: "button",
            class: "plain",
            title: study.text,
            "aria-pressed": study === current ? "true" : "false",
            onclick: () => go({ key: study.key }),
          },
          study.topic || study.text,
        ),
      ),
    );
  }

  function draw(study, { mode, names }) {
    const lines = study.modes[mode];
    const values = lines.flatMap((line) => line.value).filter((value) => value > 0);
    const low = Math.log(Math.min(...values)),
      high = Math.log(Math.max(...values));
    const level = (value) => (high > low ? (Math.log(value) - low) / (high - low) : 1);
    const paint = ramp();
    const head = h(
      "tr",
      {},
      h("td", {}),
      study.tokens.map((token) => h("th", { scope: "col" }, tokens.chip(token))),
    );
    const rows = study.rows.map((row, number) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, row.label),
        lines[number].feature.map((feature, place) =>
          cell(row, lines[number], place, names, (value) => paint(level(value))),
        ),
      ),
    );
    return h(
      "figure",
      { class: "heatmap" },
      h("blockquote", {}, study.text),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "group", "aria-label": `Heatmap of: ${study.text}` },
        h("table", {}, h("thead", {}, head), h("tbody", {}, rows)),
      ),
      values.length ? scale(Math.exp(low), Math.exp(high), paint) : null,
      h(
        "figcaption",
        {},
        "Where nothing is above 0, and at a position that the run masks (the first one), there is no cell. ",
        "Names are those of the dictionary; whether they hold is on the page of each feature.",
      ),
    );
  }

  function cell(row, line, place, names, paint) {
    const feature = line.feature[place];
    if (feature < 0) return h("td", { class: "empty" });
    const { background, ink } = paint(line.value[place]);
    const title =
      `${row.label}, feature ${feature}: activation ${format.activation(line.activation[place])}` +
      `, shown ${format.activation(line.value[place])}`;
    const to = runs.byKey(row.key);
    return h(
      "td",
      { "--cell": background, "--ink": ink },
      h(
        "a",
        { href: to ? runs.link(to, feature) : null, title },
        names === "name" ? h("small", {}, line.relation[place]) : null,
        line[names][place] ? tokens.chip(line[names][place]) : "no tested name",
      ),
    );
  }

  function scale(low, high, paint) {
    const steps = [0, 0.25, 0.5, 0.75, 1].map((t) => h("i", { "--cell": paint(t).background }));
    return h(
      "p",
      { class: "scale" },
      format.activation(low),
      h("span", {}, steps),
      format.activation(high),
    );
  }

  // From the page's pale to its deep colour; ink is black or white, whichever stands out more.
  function ramp() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number);
    const low = read("--ramp-low"),
      high = read("--ramp-high");
    return (t) => {
      const rgb = low.map((value, i) => Math.round(value + (high[i] - value) * t));
      const [r, g, b] = rgb
        .map((value) => value / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      const light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
      return { background: `rgb(${rgb.join(" ")})`, ink: light > 0.179 ? "#000" : "#fff" };
    };
  }

  vasae.heatmap = { show };
})((window.vasae = window.vasae || {}));
