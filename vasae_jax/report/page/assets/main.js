// The address says what is shown: #/features, #/feature/RUN/ID, #/heatmaps/CASE, #/figures, #/about.
(function (vasae) {
  "use strict";
  const { h, panels, index, theme } = vasae;
  const main = document.getElementById("main");
  const PAGES = [
    ["features", "Features"],
    ["heatmaps", "Heatmaps"],
    ["figures", "Figures"],
    ["about", "About"],
  ];
  const places = new Map(); // how far each list was scrolled
  let last = "";

  function route() {
    const [path, query] = (location.hash.slice(1) || "/features").split(/\?(.*)/s);
    const [, page, first, second] = path.split("/").map(decodeURIComponent);
    if (last) places.set(last, scrollY);
    vasae.features.leave();
    document.title = "Named features";
    const done =
      {
        feature: () => vasae.feature.show(main, first, second),
        heatmaps: () => vasae.heatmap.show(main, first, query),
        figures: () => vasae.figures.show(main),
        about: () => vasae.about.show(main),
      }[page] || (() => vasae.features.show(main, query));
    Promise.resolve(done())
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

  function arrived(name) {
    const same = name.split("?")[0] === last.split("?")[0];
    last = name;
    if (!same) scrollTo(0, places.get(name) || 0);
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
    const models = [...new Set(panels.all.map((panel) => panel.model))];
    document.getElementById("subject").textContent = models.join(", ");
    document
      .getElementById("nav")
      .append(
        ...PAGES.map(([page, title]) => h("a", { href: `#/${page}`, "data-page": page }, title)),
      );
    const button = document.getElementById("theme");
    const name = () => (button.textContent = theme.dark() ? "Light" : "Dark");
    button.addEventListener("click", theme.toggle);
    addEventListener("vasae-theme", () => {
      name();
      if (location.hash.startsWith("#/heatmaps")) route(); // its colours are worked out
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address is the page's own
      main.focus();
    });
    name();
    document.getElementById("foot").append(vasae.about.foot());
    addEventListener("hashchange", route);
    route();
  }

  if (index.made_by) begin();
  else complain(new Error("data/index.js is missing from this folder"));
})((window.vasae = window.vasae || {}));
