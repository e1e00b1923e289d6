// What the report claims, where it is from, and what to cite; the claim is on every page too.
(function (vasae) {
  "use strict";
  const { h, grid, index, panels, format } = vasae;

  function foot() {
    return h(
      "div",
      { class: "inner" },
      h("p", {}, h("b", {}, "What a name claims. "), index.layer_claim),
      h("p", {}, h("b", {}, "By embedding. "), index.claim),
      h(
        "p",
        { class: "cite" },
        h("b", {}, "To cite the method. "),
        index.reference,
        " ",
        vasae.feature.copy("Copy BibTeX", () => index.bibtex),
      ),
      h("p", { class: "quiet" }, `Made by ${index.made_by}. Nothing is loaded from the network.`),
    );
  }

  function show(main) {
    const rows = panels.all.map((panel) => [
      panel.label,
      panel.made,
      panel.model,
      panel.source,
      `${panel.split} split`,
      format.count(panel.firing),
      format.words(panel.fire_rate_over),
    ]);
    main.replaceChildren(
      h("h1", {}, "About this report"),
      h("h2", {}, "What a name claims, and what it does not"),
      h("p", { class: "wide" }, index.layer_claim),
      h("p", { class: "wide" }, index.claim),
      h("h2", {}, "How to read it"),
      h(
        "dl",
        { class: "terms wide" },
        TERMS.map(([term, text]) => [h("dt", {}, term), h("dd", {}, text)]),
      ),
      h("h2", {}, "Where it is from"),
      grid(HEADS, rows),
      h("h2", {}, "To cite the method"),
      h("p", { class: "wide" }, index.reference),
      h("pre", {}, index.bibtex),
    );
  }

  const HEADS = [
    "Run",
    "Trained by",
    "Model",
    "Text",
    "Examples from",
    "Features that fire",
    "Fire rates over",
  ];
  const TERMS = [
    [
      "Held",
      "The share of a feature's activation on held-out text that is at its ten layer names, or just before them.",
    ],
    [
      "Shuffled",
      "What the names of other firing features hold of it, on average: the share that chance gives.",
    ],
    [
      "Verdict",
      "Holds: it meets its names more than twice as often as the text does, by a test over different windows, with false discoveries kept to 5%. Contradicted: less often than the text does. No evidence: neither, or fewer than five occasions.",
    ],
    ["Lift", "What a name holds over the share of rows that are there."],
    [
      "Fires",
      "The share of held-out rows on which the feature is active: above 0, and among the k strongest or above its threshold, as its SAE has it.",
    ],
    [
      "By embedding",
      "The token whose embedding is nearest to the decoder row, by cosine: strong from 0.8, medium from 0.5, weak from 0.3.",
    ],
  ];

  vasae.about = { show, foot };
})((window.vasae = window.vasae || {}));
