// The page of one feature.
(function (vasae) {
  "use strict";
  const { h, panels, format, tokens, sections, relatives } = vasae;

  async function show(main, key, number) {
    const panel = panels.byKey(key);
    const feature = Number(number);
    if (!panel || !(Number.isInteger(feature) && feature >= 0 && feature < panel.features)) {
      main.replaceChildren(
        h("h1", {}, "No such feature"),
        h("p", {}, h("a", { href: "#/features" }, "All features")),
      );
      return;
    }
    const found = await panels.loadFeature(panel, feature);
    if (location.hash.split("?")[0] !== panels.link(panel, feature)) return; // gone elsewhere
    document.title = `Feature ${feature}, ${panel.label}`;
    main.replaceChildren(
      head(found),
      h(
        "div",
        { class: "two" },
        h("div", {}, sections.where(found)),
        h(
          "div",
          {},
          sections.layerNames(found),
          sections.embeddings(found),
          sections.strength(found),
          sections.headTokens(found),
        ),
      ),
      relatives.show(found),
    );
    for (const other of found.matches) {
      if (!other.panel.table) panels.loadTable(other.panel).then(() => relatives.fillMatch(other));
    }
  }

  function head(found) {
    const { panel, feature } = found;
    const { table } = panel;
    const rate = table.rate.values[feature];
    const cosine = table.cosine.values[feature];
    const verdict = format.verdict(table.verdict.values[feature]);
    const step = (to, text) =>
      to >= 0 && to < panel.features
        ? h("a", { href: panels.link(panel, to) }, text)
        : h("span", { class: "quiet" }, text);
    return h(
      "section",
      { class: "feature-head" },
      h(
        "p",
        { class: "crumbs" },
        h("a", { href: "#/features" }, "All features"),
        " · ",
        step(feature - 1, "← previous"),
        " · ",
        step(feature + 1, "next →"),
        " · ",
        copy("Copy link", () => location.href),
      ),
      h(
        "h1",
        {},
        h(
          "span",
          { class: "quiet" },
          `${format.capital(panel.label)}, feature ${feature} `,
          verdict === "holds" ? "fires " : "should fire ",
          format.relation(table.relation.values[feature]),
          " ",
        ),
        panels.names(panel, feature).map(({ shown }) => [tokens.chip(shown), " "]),
      ),
      h(
        "dl",
        { class: "facts" },
        fact(
          "Names hold",
          format.share(table.hold.values[feature]),
          `shuffled names ${format.share(table.shuffled.values[feature])}`,
        ),
        fact(
          "Verdict",
          h("span", { class: `verdict ${verdict.replace(" ", "-")}` }, verdict),
          "by a test on held-out text",
        ),
        fact("Fires on", format.rate(rate), `of the ${format.words(panel.fire_rate_over)}`),
        fact(
          "Nearest embedding",
          tokens.chip(panel.vocab[table.token.values[feature]]),
          `cosine ${format.cosine(cosine)}: ${format.bucketWords(format.bucket(cosine))}`,
        ),
      ),
    );
  }

  const fact = (title, value, note) =>
    h("div", {}, h("dt", {}, title), h("dd", {}, h("b", {}, value), h("small", {}, note)));

  // A button that copies text, and says so.
  function copy(title, text) {
    const button = h(
      "button",
      {
        type: "button",
        class: "plain copy",
        onclick: async () => {
          await vasae.copy(text());
          button.textContent = "Copied";
          setTimeout(() => (button.textContent = title), 1500);
        },
      },
      title,
    );
    return button;
  }

  vasae.feature = { show, copy };
})((window.vasae = window.vasae || {}));
