// Features that stand beside one: like it, firing with it, or its match in another run.
(function (vasae) {
  "use strict";
  const { h, panels, format, tokens } = vasae;

  function relatives(found) {
    const { panel } = found;
    const pick = (ids, values, note) =>
      Array.from(found.at(ids), (id, i) =>
        id < 0 ? null : other(panel, id, note(found.at(values)[i])),
      );
    const near = pick("near", "near_cosines", (value) => `cosine ${format.cosine(value)}`);
    const together = pick(
      "together",
      "together_share",
      (value) => `on ${format.share(value)} of its rows`,
    );
    const elsewhere = found.matches
      .filter((match) => match.feature >= 0)
      .map((match) => {
        match.element = other(
          match.panel,
          match.feature,
          `cosine ${format.cosine(match.cosine)}`,
          match.panel.label,
        );
        return match.element;
      });
    const box = (title, note, list) =>
      h(
        "section",
        {},
        h("h2", {}, title),
        h("p", { class: "quiet" }, note),
        list.some(Boolean)
          ? h("ul", { class: "others" }, list)
          : h("p", { class: "quiet" }, "None."),
      );
    return h(
      "div",
      { class: "three" },
      box("Nearest features", "By cosine of decoder rows.", near),
      box("Fire together", "Features that share most of their rows with it.", together),
      elsewhere.length
        ? box(
            "In other runs",
            "The nearest firing feature there, by cosine of decoder rows.",
            elsewhere,
          )
        : null,
    );
  }

  function other(panel, feature, note, label) {
    return h(
      "li",
      {},
      h("a", { href: panels.link(panel, feature) }, label ? `${label}, ${feature}` : feature),
      h("span", { class: "what" }, panel.table ? named(panel, feature) : null),
      h("small", {}, note),
    );
  }

  const named = (panel, feature) => [
    h("span", { class: "relation" }, format.relation(panel.table.relation.values[feature])),
    panels
      .names(panel, feature)
      .slice(0, 2)
      .map(({ shown }) => tokens.chip(shown)),
  ];

  function fillMatch(match) {
    if (match.element)
      match.element.querySelector(".what").append(...named(match.panel, match.feature).flat());
  }

  vasae.relatives = { show: relatives, fillMatch };
})((window.vasae = window.vasae || {}));
