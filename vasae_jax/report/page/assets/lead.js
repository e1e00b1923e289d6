// The head of the first page.
(function (vasae) {
  "use strict";
  const { h, panels, format } = vasae;

  // What the report is about, in a line of figures for each run.
  function lead() {
    const head = h(
      "h1",
      {},
      `${format.count(panels.total)} features, each with the tokens it should fire at`,
    );
    const rows = panels.all
      .slice(0, 12)
      .map(({ label, key, features, held, variance_explained: ve }) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, label),
          h("td", {}, format.count(features)),
          h("td", {}, `${(ve * 100).toFixed(1)}%`),
          h(
            "td",
            {},
            format.share(held.hold1),
            h("small", {}, `shuffled ${format.share(held.shuffled1)}`),
          ),
          h(
            "td",
            {},
            format.share(held.hold10),
            h("small", {}, `shuffled ${format.share(held.shuffled10)}`),
          ),
          h("td", {}, format.share(held.holds)),
        ),
      );
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
      h(
        "div",
        { class: "scroll" },
        h(
          "table",
          { class: "figures-table" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              [
                "Run",
                "Features",
                "Variance explained",
                "First name holds",
                "Ten names hold",
                "Names hold by test",
              ].map((text) => h("th", { scope: "col" }, text)),
            ),
          ),
          h("tbody", {}, rows),
        ),
      ),
    );
  }

  vasae.lead = lead;
})((window.vasae = window.vasae || {}));
