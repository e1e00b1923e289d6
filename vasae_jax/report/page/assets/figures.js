// Figures that were drawn beforehand, with their data.
(function (vasae) {
  "use strict";
  const { h, index } = vasae;

  function show(main) {
    const drawn = index.figures.map(({ name, title, caption }) =>
      h(
        "figure",
        { class: "chart", id: name },
        h("figcaption", {}, h("h2", {}, title), h("p", {}, caption)),
        h("img", { src: `figures/${name}.svg`, alt: `${title}. ${caption}`, loading: "lazy" }),
        h(
          "p",
          { class: "files" },
          ["svg", "png", "csv"].map((kind) =>
            h("a", { href: `figures/${name}.${kind}` }, kind.toUpperCase()),
          ),
        ),
      ),
    );
    main.replaceChildren(
      h("h1", {}, "Figures"),
      drawn.length
        ? h("div", { class: "charts" }, drawn)
        : h("p", {}, "This report has no figures."),
    );
  }

  vasae.figures = { show };
})((window.vasae = window.vasae || {}));
