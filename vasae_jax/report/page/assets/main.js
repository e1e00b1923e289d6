// The figures, the page about the report, and the address, which says what is shown:
// #/features, #/feature/RUN/ID, #/heatmaps/CASE, #/figures, #/about.
(function (vasae) {
  "use strict";
  const { h, grid, runs, index, format, plain, theme } = vasae;

  function showFigures(main) {
    const figures = index.figures.map(({ name, title, caption }) =>
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
      figures.length
        ? h("div", { class: "charts" }, figures)
        : h("p", {}, "This report has no figures."),
    );
  }

  function footer() {
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

  function showAbout(main) {
    const rows = runs.all.map((run) => [
      run.label,
      run.made_by,
      run.model,
      run.source,
      `${run.split} split`,
      format.count(run.firing),
      format.groupDigits(run.fire_rate_over),
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
      "The share of a feature's activation on held-out text that is at a layer name, or just before it.",
    ],
    [
      "Shuffled",
      "What the first names of other firing features hold of it, on average: the share expected by chance.",
    ],
    [
      "Verdict",
      "Of each name by itself. Does not hold: by a test over different windows, with false discoveries kept to 5%, the feature does not meet the name more than twice as often as the text does. Otherwise the name holds if at least a fifth of the activation is there, and in part if less is. Untested: the held-out text has the name, or the feature fires, on fewer than five occasions; such a name stands for no feature.",
    ],
    ["Precision", "Of the rows at (or before) a name, those on which the feature fires."],
    ["Recall", "Of the rows on which the feature fires, those at (or before) the name."],
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

  const main = document.getElementById("main");
  const PAGES = [
    ["features", "Features"],
    ["heatmaps", "Heatmaps"],
    ["figures", "Figures"],
    ["about", "About"],
  ];
  const scrolled = new Map(); // how far each list was scrolled
  let last = "";

  function route() {
    const [path, query] = (location.hash.slice(1) || "/features").split(/\?(.*)/s);
    const [, page, first, second] = path.split("/").map(decoded);
    if (last) scrolled.set(last, scrollY);
    vasae.features.leave();
    document.title = "Named features";
    const pages = new Map([
      ["feature", () => vasae.feature.show(main, first, second)],
      ["heatmaps", () => vasae.heatmap.show(main, first, query)],
      ["figures", () => showFigures(main)],
      ["about", () => showAbout(main)],
    ]);
    const draw = pages.get(page) || (() => vasae.features.show(main, query));
    Promise.resolve(draw())
      .catch(complain)
      .then(() => arrived(location.hash || "#/features"));
    for (const link of document.querySelectorAll("#nav a")) {
      const here =
        link.dataset.page === page ||
        (link.dataset.page === "features" && (page === "feature" || !page));
      if (here) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  // A part of the address as it was meant; one that is no code of characters as it stands.
  function decoded(part) {
    try {
      return decodeURIComponent(part);
    } catch (error) {
      return part;
    }
  }

  function arrived(name) {
    const same = name.split("?")[0] === last.split("?")[0];
    last = name;
    if (!same) scrollTo(0, scrolled.get(name) || 0);
  }

  function complain(error) {
    main.replaceChildren(h("h1", {}, "Something is missing"), h("p", {}, error.message));
  }

  async function copyText(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch (error) {
      const area = h("textarea", { class: "hidden" }); // a page from a disk may lack the clipboard
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  function begin() {
    Object.assign(vasae, { copy: copyText, complain });
    const models = [...new Set(runs.all.map((run) => run.model))];
    document.getElementById("subject").textContent = plain(models.join(", "));
    document
      .getElementById("nav")
      .append(
        ...PAGES.map(([page, title]) => h("a", { href: `#/${page}`, "data-page": page }, title)),
      );
    const button = document.getElementById("theme");
    const label = () => (button.textContent = theme.dark() ? "Light" : "Dark");
    button.addEventListener("click", theme.toggle);
    addEventListener("vasae-theme", () => {
      label();
      if (location.hash.startsWith("#/heatmaps")) route(); // its colours depend on the theme
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address is the page's own
      main.focus();
    });
    label();
    document.getElementById("foot").append(footer());
    addEventListener("hashchange", route);
    route();
  }

  if (index.made_by) begin();
  else complain(new Error("data/index.js is missing from this folder"));
})((window.vasae = window.vasae || {}));
