// The page of one feature: its head, its sections, where it fires, its neighbours.
(function (vasae) {
  "use strict";
  const { h, grid, runs, format, plain, plots, tokens } = vasae;

  async function show(main, key, number) {
    const run = runs.byKey(key);
    const id = /^\d+$/.test(number) ? Number(number) : NaN;
    if (!run || !(id < run.features)) {
      main.replaceChildren(
        h("h1", {}, "No such feature"),
        h("p", {}, h("a", { href: "#/features" }, "All features")),
      );
      return;
    }
    const address = location.hash;
    const feature = await runs.loadFeature(run, id);
    if (location.hash !== address) return; // the reader has left
    document.title = plain(`Feature ${id}, ${run.label}`);
    main.replaceChildren(
      head(feature),
      h("div", { class: "beside" }, layerNames(feature), strength(feature)),
      h(
        "div",
        { class: "two" },
        h("div", {}, contexts(feature)),
        h(
          "div",
          {},
          embeddings(feature),
          headTokens(feature),
        ),
      ),
      neighbours(feature),
    );
    for (const other of feature.matches) {
      if (!other.run.table) runs.loadTable(other.run).then(() => fillMatch(other));
    }
  }

  function head(feature) {
    const { run, number } = feature;
    const { table } = run;
    const rate = table.rate.values[number];
    const cosine = table.cosine.values[number];
    const verdict = table.verdict.values[number];
    const names = runs.layerNames(run, number);
    const step = (to, text) =>
      to >= 0 && to < run.features
        ? h("a", { href: runs.link(run, to) }, text)
        : h("span", { class: "quiet" }, text);
    return h(
      "section",
      { class: "feature-head" },
      h(
        "p",
        { class: "crumbs" },
        h("a", { href: "#/features" }, "All features"),
        " · ",
        step(number - 1, "← previous"),
        " · ",
        step(number + 1, "next →"),
        " · ",
        copy("Copy link", () => location.href),
      ),
      h(
        "h1",
        {},
        h(
          "span",
          { class: "quiet" },
          `${format.capital(run.label)}, feature ${number} `,
          !names.length ? "has no tested name" : verdict === 1 ? "fires " : "should fire ",
          names.length ? `${format.relation(table.relation.values[number])} ` : null,
        ),
        names.map(({ text }, i) => [tokens.chip(text, { class: i ? "chip also" : "chip" }), " "]),
      ),
      names.length ? alike(run, number) : null,
      h(
        "dl",
        { class: "facts" },
        fact(
          "First name holds",
          format.share(table.hold.values[number]),
          `all its names ${format.share(table.hold_together.values[number])}, other features' first ${format.share(table.shuffled.values[number])}`,
        ),
        fact(
          "Verdict",
          h("span", { class: format.verdictClass(verdict) }, format.verdict(verdict)),
          "on the first name, by a test on held-out text",
        ),
        names.length ? detection(feature) : null,
        fact("Fires on", format.rate(rate), `of the ${format.groupDigits(run.fire_rate_over)}`),
        fact(
          "Nearest embedding",
          tokens.chip(run.vocab[table.token.values[number]]),
          `cosine ${format.cosine(cosine)}: ${format.bucketWords(format.bucket(cosine))}`,
        ),
      ),
    );
  }

  // How many features have this first name, one click from all of them.
  function alike(run, number) {
    const others = runs.sharing(run, number).length;
    if (!others) return h("p", { class: "alike quiet" }, "No other feature has this first name.");
    const many = others > 1 ? `${format.count(others)} other features have` : "1 other feature has";
    const to = vasae.filters.sharedName(run, number);
    return h("p", { class: "alike" }, h("a", { href: to }, `${many} this first name`));
  }

  // Precision and recall of the first name, as one picture of the rows that it is about.
  function detection(feature) {
    const [rows, named] = ["name_rows", "name_text_rows"].map((name) => feature.values(name)[0]);
    const [fired] = feature.values("fired");
    return fact(
      "First name detects",
      plots.overlap(fired, rows, named),
      `precision ${format.share(rows / named)} (${format.count(rows)} of the name's ${format.count(named)} rows), ` +
        `recall ${format.share(fired ? rows / fired : 0)} (of the ${format.count(fired)} rows it fires on)`,
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

  function contexts(feature) {
    const { top } = feature.run;
    const all = feature.values("value").length;
    return [
      h("section", {}, h("h2", {}, "Where it fires most"), examples(feature, 0, top)),
      h(
        "section",
        {},
        h("h2", {}, "Across its range"),
        h("p", { class: "quiet" }, "From a random sample of its firings, strong to weak."),
        examples(feature, top, all),
      ),
    ];
  }

  function layerNames(feature) {
    const { run, number } = feature;
    const [ids, holds, lifts, rows, textRows, verdicts, expected, [fired]] = [
      "names",
      "name_hold",
      "name_lift",
      "name_rows",
      "name_text_rows",
      "name_verdict",
      "expected",
      "fired",
    ].map((name) => feature.values(name));
    const named = Array.from(ids.keys()).filter((i) => ids[i] >= 0);
    const relation = format.relation(run.table.relation.values[number]);
    return h(
      "section",
      {},
      h("h2", {}, "Layer names"),
      h(
        "p",
        { class: "quiet" },
        `It should fire ${relation} these tokens. Measured over the ${format.groupDigits(run.hold_over)}.`,
      ),
      grid(
        ["Name", "Training", "Holds", "Precision", "Recall", "Lift", "Rows", "Verdict"],
        named.map((i) => [
          tokens.chip(run.vocab[ids[i]]),
          format.share(expected[i]),
          [plots.bar(holds[i]), format.share(holds[i])],
          textRows[i] > 0 ? format.share(rows[i] / textRows[i]) : "·",
          fired > 0 ? format.share(rows[i] / fired) : "·",
          lifts[i] > 0 ? format.times(lifts[i]) : "·",
          `${format.count(rows[i])} of ${format.count(textRows[i])}`,
          h("span", { class: format.verdictClass(verdicts[i]) }, format.verdict(verdicts[i])),
        ]),
        "grid names-table",
      ),
    );
  }

  function embeddings(feature) {
    const { run } = feature;
    const list = (ids, cosines) => chips(feature, ids, cosines, format.cosine);
    const raw =
      run.anchor === "input embeddings"
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
      h("h3", {}, format.capital(run.anchor)),
      list("tokens", "cosines"),
      raw,
    );
  }

  function strength(feature) {
    return h(
      "section",
      {},
      h("h2", {}, "How strongly it fires"),
      plots.histogram(Array.from(feature.values("histogram")), feature.run.edges),
    );
  }

  function headTokens(feature) {
    const list = (ids, by) => chips(feature, ids, by, signed);
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
  const chips = (feature, ids, values, toText) =>
    h(
      "p",
      { class: "chips" },
      Array.from(feature.values(ids), (id, i) =>
        h(
          "span",
          { class: "named" },
          tokens.chip(feature.run.vocab[id]),
          h("small", {}, toText(feature.values(values)[i])),
        ),
      ),
    );
  const signed = (value) => (value > 0 ? "+" : "−") + Math.abs(value).toPrecision(2);

  // Lines of text in which it fires, each token shaded by its activation.
  function examples(feature, first, last) {
    const width = feature.values("text").length / feature.values("value").length;
    const lines = [];
    for (let number = first; number < last; number += 1) {
      if (feature.values("value")[number] > 0) lines.push(example(feature, number, width));
    }
    return lines.length
      ? h("ol", { class: "examples" }, lines)
      : h("p", { class: "quiet" }, "It fires on no row that was read.");
  }

  function example(feature, number, width) {
    const { run } = feature;
    const part = (name) => feature.values(name).subarray(number * width, (number + 1) * width);
    const shade = part("shade");
    const text = part("text");
    const first = text.findIndex((token) => token >= 0);
    const words = Array.from(text, (token, place) => {
      if (token < 0) return null;
      const value = shade[place] / 255;
      const fires = place === run.tokens_before;
      return h(
        fires ? "mark" : "span",
        { class: value > 0 ? "lit" : null, "--heat": value.toFixed(2) },
        tokens.inText(place === first ? run.vocab[token].replace(/^␣+/, "") : run.vocab[token]),
      );
    });
    const quantile = feature.values("quantile")[number];
    return h(
      "li",
      {},
      h(
        "span",
        { class: "number" },
        format.activation(feature.values("value")[number]),
        quantile < 1 ? h("small", {}, `quantile ${Math.round(quantile * 100)}%`) : null,
      ),
      h("bdi", { class: "text" }, words),
    );
  }

  // Features that stand beside it: like it, firing with it, or its match in another run.
  function neighbours(feature) {
    const { run } = feature;
    const list = (ids, values, note) =>
      Array.from(feature.values(ids), (id, i) =>
        id < 0 ? null : neighbour(run, id, note(feature.values(values)[i])),
      );
    const near = list("near", "near_cosines", (value) => `cosine ${format.cosine(value)}`);
    const together = list(
      "together",
      "together_share",
      (value) => `on ${format.share(value)} of its rows`,
    );
    const elsewhere = feature.matches
      .filter((match) => match.number >= 0)
      .map((match) => {
        match.element = neighbour(
          match.run,
          match.number,
          `cosine ${format.cosine(match.cosine)}`,
          match.run.label,
        );
        return match.element;
      });
    const same = runs.sharing(run, feature.number);
    const box = (title, note, items) =>
      h(
        "section",
        {},
        h("h2", {}, title),
        h("p", { class: "quiet" }, note),
        items.some(Boolean)
          ? h("ul", { class: "others" }, items)
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
      same.length
        ? box(
            "Share its first name",
            `${format.count(same.length)} others${same.length > SHARING ? `, of which ${SHARING} are shown` : ""}, those that hold most first.`,
            same
              .slice(0, SHARING)
              .map((other) =>
                neighbour(run, other, `holds ${format.share(run.table.hold.values[other])}`),
              ),
          )
        : null,
    );
  }

  const SHARING = 12;

  function neighbour(run, number, note, label) {
    return h(
      "li",
      {},
      h("a", { href: runs.link(run, number) }, label ? `${label}, ${number}` : number),
      h("span", { class: "what" }, run.table ? firstNames(run, number) : null),
      h("small", {}, note),
    );
  }

  const firstNames = (run, number) => [
    h("span", { class: "relation" }, format.relation(run.table.relation.values[number])),
    runs
      .layerNames(run, number)
      .slice(0, 2)
      .map(({ text }) => tokens.chip(text)),
  ];

  function fillMatch(match) {
    if (match.element)
      match.element.querySelector(".what").append(...firstNames(match.run, match.number).flat());
  }

  vasae.feature = { show, copy };
})((window.vasae = window.vasae || {}));
