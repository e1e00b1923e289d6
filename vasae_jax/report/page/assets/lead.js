// The head of the first page.
(function (vasae) {
  "use strict";
  const { h, grid, panels, format } = vasae;

  const HEADS = [
    "Run",
    "Features",
    "Variance explained",
    "First name holds",
    "Ten names hold",
    "Names hold by test",
  ];

  // What the report is about, in a line of figures for each run.
  function lead() {
    const head = h(
      "h1",
      {},
      `${format.count(panels.total)} features, each with the tokens it should fire at`,
    );
    const beside = (share, shuffled) => [
      format.share(share),
      h("small", {}, `shuffled ${format.share(shuffled)}`),
    ];
    const rows = panels.all
      .slice(0, 12)
      .map(({ label, features, held, variance_explained: ve }) => [
        h("th", { scope: "row" }, label),
        format.count(features),
        `${(ve * 100).toFixed(1)}%`,
        beside(held.hold1, held.shuffled1),
        beside(held.hold10, held.shuffled10),
        format.share(held.holds),
      ]);
    return h(
      "section",
      { class: "lead" },
      head,
      h(
        "p",
        {},
        "A layer name says at or before which token a feature should fire. What it holds is counted: ",
        "the share of the feature's activation that is there, on held-out text.",
      ),
      grid(HEADS, rows, "figures-table"),
    );
  }

  vasae.lead = lead;
})((window.vasae = window.vasae || {}));
