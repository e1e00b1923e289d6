// What is said of one feature, section by section.
(function (vasae) {
  "use strict";
  const { h, grid, format, plots, tokens, examples } = vasae;

  function where(found) {
    const { top } = found.panel;
    const all = found.at("value").length;
    return [
      h("section", {}, h("h2", {}, "Where it fires most"), examples.list(found, 0, top)),
      h(
        "section",
        {},
        h("h2", {}, "Across its range"),
        h("p", { class: "quiet" }, "From a random sample of its firings, strong to weak."),
        examples.list(found, top, all),
      ),
    ];
  }

  function layerNames(found) {
    const { panel, feature } = found;
    const [ids, holds, lifts, rows, expected] = [
      "names",
      "name_hold",
      "name_lift",
      "name_rows",
      "expected",
    ].map(found.at);
    const relation = format.relation(panel.table.relation.values[feature]);
    return h(
      "section",
      {},
      h("h2", {}, "Layer names"),
      h(
        "p",
        { class: "quiet" },
        `It should fire ${relation} these tokens. Measured over the ${format.words(panel.hold_over)}.`,
      ),
      grid(
        ["Name", "Expected", "Holds", "Lift", "Rows"],
        Array.from(ids, (id, i) => [
          tokens.chip(panel.vocab[id]),
          format.share(expected[i]),
          [plots.bar(holds[i]), format.share(holds[i])],
          lifts[i] > 0 ? format.times(lifts[i]) : "·",
          format.count(rows[i]),
        ]),
      ),
    );
  }

  function embeddings(found) {
    const { panel } = found;
    const list = (ids, cosines) => chips(found, ids, cosines, format.cosine);
    const raw =
      panel.anchor === "input embeddings"
        ? null
        : [h("h3", {}, "Raw input embeddings"), list("raw_tokens", "raw_cosines")];
    return h(
      "section",
      {},
      h("h2", {}, "Names by embedding"),
      h(
        "p",
        { class: "quiet" },
        "Tokens whose embeddings are nearest to its decoder row, by cosine.",
      ),
      h("h3", {}, format.capital(panel.anchor)),
      list("tokens", "cosines"),
      raw,
    );
  }

  function strength(found) {
    return h(
      "section",
      {},
      h("h2", {}, "How strongly it fires"),
      plots.histogram(Array.from(found.at("histogram")), found.panel.edges),
    );
  }

  function headTokens(found) {
    const list = (ids, by) => chips(found, ids, by, signed);
    return h(
      "section",
      {},
      h("h2", {}, "Tokens it raises and lowers"),
      h(
        "p",
        { class: "quiet" },
        "Its decoder row read by the unembedding alone, without the blocks in between: " +
          "the change of a logit for an activation of 1, before the final norm's scale.",
      ),
      h("h3", {}, "Raised"),
      list("raised", "raised_by"),
      h("h3", {}, "Lowered"),
      list("lowered", "lowered_by"),
    );
  }

  // Tokens in a line, each with a number after it.
  const chips = (found, ids, values, written) =>
    h(
      "p",
      { class: "chips" },
      Array.from(found.at(ids), (id, i) =>
        h(
          "span",
          { class: "named" },
          tokens.chip(found.panel.vocab[id]),
          h("small", {}, written(found.at(values)[i])),
        ),
      ),
    );
  const signed = (value) => (value > 0 ? "+" : "−") + Math.abs(value).toPrecision(2);

  vasae.sections = { where, layerNames, embeddings, strength, headTokens };
})((window.vasae = window.vasae || {}));
