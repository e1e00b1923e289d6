// The page of one feature.
(function (vasae) {
  "use strict";
  const { h, panels, format, plots, tokens, examples } = vasae;

  async function show(main, key, number) {
    const panel = panels.byKey(key);
    const feature = Number(number);
    if (!panel || !(Number.isInteger(feature) && feature >= 0 && feature < panel.features)) {
      main.replaceChildren(h("h1", {}, "No such feature"), h("p", {}, h("a", { href: "#/features" }, "All features")));
      return;
    }
    const found = await panels.loadFeature(panel, feature);
    if (location.hash.split("?")[0] !== panels.link(panel, feature)) return; // gone elsewhere
    document.title = `Feature ${feature}, ${panel.label}`;
    main.replaceChildren(head(found), h("div", { class: "two" },
      h("div", {}, where(found)),
      h("div", {}, layerNames(found), embeddings(found), strength(found), headTokens(found))),
      relatives(found));
    for (const other of found.matches) {
      if (!other.panel.table) panels.loadTable(other.panel).then(() => fillMatch(other));
    }
  }

  function head(found) {
    const { panel, feature } = found;
    const { table } = panel;
    const rate = table.rate.values[feature];
    const verdict = format.verdict(table.verdict.values[feature]);
    const step = (to, text) => to >= 0 && to < panel.features
      ? h("a", { href: panels.link(panel, to) }, text) : h("span", { class: "quiet" }, text);
    return h("section", { class: "feature-head" },
      h("p", { class: "crumbs" }, h("a", { href: "#/features" }, "All features"), " · ",
        step(feature - 1, "← previous"), " · ", step(feature + 1, "next →"), " · ", copy("Copy link", () => location.href)),
      h("h1", {}, h("span", { class: "quiet" }, `${capital(panel.label)}, feature ${feature} fires `,
        format.relation(table.relation.values[feature]), " "),
        panels.names(panel, feature).map(({ shown }) => [tokens.chip(shown), " "])),
      h("dl", { class: "facts" },
        fact("Names hold", format.share(table.hold.values[feature]), `shuffled names ${format.share(table.shuffled.values[feature])}`),
        fact("Verdict", h("span", { class: `verdict ${verdict.replace(" ", "-")}` }, verdict), "by a test on held-out text"),
        fact("Fires on", format.rate(rate), `of the ${format.words(panel.fire_rate_over)}`),
        fact("Nearest embedding", tokens.chip(panel.vocab[table.token.values[feature]]),
          `cosine ${format.cosine(table.cosine.values[feature])}, ${format.bucket(table.cosine.values[feature])}`)));
  }

  const fact = (title, value, note) =>
    h("div", {}, h("dt", {}, title), h("dd", {}, h("b", {}, value), h("small", {}, note)));

  function where(found) {
    const { top } = found.panel;
    const all = found.at("value").length;
    return [
      h("section", {}, h("h2", {}, "Where it fires most"), examples.list(found, 0, top)),
      h("section", {}, h("h2", {}, "Across its range"),
        h("p", { class: "quiet" }, "From a random sample of its firings, strong to weak."),
        examples.list(found, top, all)),
    ];
  }

  function layerNames(found) {
    const { panel, feature } = found;
    const [ids, holds, lifts, rows, expected] =
      ["names", "name_hold", "name_lift", "name_rows", "expected"].map(found.at);
    const relation = format.relation(panel.table.relation.values[feature]);
    return h("section", {}, h("h2", {}, "Layer names"),
      h("p", { class: "quiet" }, `It should fire ${relation} these tokens. Measured over the ${format.words(panel.hold_over)}.`),
      grid(["Name", "Expected", "Holds", "Lift", "Rows"], Array.from(ids, (id, i) => [
        tokens.chip(panel.vocab[id]), format.share(expected[i]),
        [plots.bar(holds[i]), format.share(holds[i])],
        lifts[i] > 0 ? format.times(lifts[i]) : "·", format.count(rows[i])])));
  }

  function embeddings(found) {
    const { panel } = found;
    const list = (ids, cosines) => h("p", { class: "chips" }, Array.from(found.at(ids), (id, i) =>
      h("span", { class: "named" }, tokens.chip(panel.vocab[id]), h("small", {}, format.cosine(found.at(cosines)[i])))));
    const raw = panel.anchor === "input embeddings" ? null
      : [h("h3", {}, "Raw input embeddings"), list("raw_tokens", "raw_cosines")];
    return h("section", {}, h("h2", {}, "Names by embedding"),
      h("p", { class: "quiet" }, "Tokens whose embeddings are nearest to its decoder row, by cosine."),
      h("h3", {}, capital(panel.anchor)), list("tokens", "cosines"), raw);
  }

  function strength(found) {
    return h("section", {}, h("h2", {}, "How strongly it fires"),
      plots.histogram(Array.from(found.at("histogram")), found.panel.edges));
  }

  function headTokens(found) {
    const list = (ids, by) => h("p", { class: "chips" }, Array.from(found.at(ids), (id, i) =>
      h("span", { class: "named" }, tokens.chip(found.panel.vocab[id]), h("small", {}, signed(found.at(by)[i])))));
    return h("section", {}, h("h2", {}, "Tokens it raises and lowers"),
      h("p", { class: "quiet" }, "Its decoder row read by the unembedding alone, without the blocks in between: "
        + "the change of a logit for an activation of 1, before the final norm's scale."),
      h("h3", {}, "Raised"), list("raised", "raised_by"), h("h3", {}, "Lowered"), list("lowered", "lowered_by"));
  }

  const signed = (value) => (value > 0 ? "+" : "−") + Math.abs(value).toPrecision(2);
  const capital = (text) => text[0].toUpperCase() + text.slice(1);

  function relatives(found) {
    const { panel } = found;
    const pick = (ids, values, note) => Array.from(found.at(ids), (id, i) =>
      id < 0 ? null : other(panel, id, note(found.at(values)[i])));
    const near = pick("near", "near_cosines", (value) => `cosine ${format.cosine(value)}`);
    const together = pick("together", "together_share", (value) => `on ${format.share(value)} of its rows`);
    const elsewhere = found.matches.filter((match) => match.feature >= 0).map((match) => {
      match.element = other(match.panel, match.feature, `cosine ${format.cosine(match.cosine)}`, match.panel.label);
      return match.element;
    });
    const box = (title, note, list) => h("section", {}, h("h2", {}, title), h("p", { class: "quiet" }, note),
      list.some(Boolean) ? h("ul", { class: "others" }, list) : h("p", { class: "quiet" }, "None."));
    return h("div", { class: "three" },
      box("Nearest features", "By cosine of decoder rows.", near),
      box("Fire together", "Features that share most of their rows with it.", together),
      elsewhere.length ? box("In other runs", "The nearest firing feature there, by cosine of decoder rows.", elsewhere) : null);
  }

  function other(panel, feature, note, label) {
    return h("li", {}, h("a", { href: panels.link(panel, feature) }, label ? `${label}, ${feature}` : feature),
      h("span", { class: "what" }, panel.table ? named(panel, feature) : null), h("small", {}, note));
  }

  const named = (panel, feature) => [
    h("span", { class: "relation" }, format.relation(panel.table.relation.values[feature])),
    panels.names(panel, feature).slice(0, 2).map(({ shown }) => tokens.chip(shown)),
  ];

  function fillMatch(match) {
    if (match.element) match.element.querySelector(".what").append(...named(match.panel, match.feature).flat());
  }

  function grid(heads, rows) {
    return h("div", { class: "scroll" }, h("table", { class: "grid" },
      h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell)))))));
  }

  // A button that copies text, and says so.
  function copy(title, text) {
    const button = h("button", {
      type: "button", class: "plain copy",
      onclick: async () => {
        await vasae.copy(text());
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = title), 1500);
      },
    }, title);
    return button;
  }

  vasae.feature = { show, copy };
})((window.vasae = window.vasae || {}));
