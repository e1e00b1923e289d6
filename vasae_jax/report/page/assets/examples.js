// Lines of text in which a feature fires, each token shaded by its activation.
(function (vasae) {
  "use strict";
  const { h, format, tokens } = vasae;

  // The examples from `first` to `last` of a feature found by panels.loadFeature.
  function list(found, first, last) {
    const width = found.at("text").length / found.at("value").length;
    const lines = [];
    for (let number = first; number < last; number += 1) {
      if (found.at("value")[number] > 0) lines.push(line(found, number, width));
    }
    return lines.length
      ? h("ol", { class: "examples" }, lines)
      : h("p", { class: "quiet" }, "It fires on no row that was read.");
  }

  function line(found, number, width) {
    const { panel } = found;
    const part = (name) => found.at(name).subarray(number * width, (number + 1) * width);
    const shade = part("shade");
    const text = part("text");
    const first = text.findIndex((token) => token >= 0);
    const words = Array.from(text, (token, place) => {
      if (token < 0) return null;
      const value = shade[place] / 255;
      const fires = place === panel.at;
      return h(
        fires ? "mark" : "span",
        { class: value > 0 ? "lit" : null, "--heat": value.toFixed(2) },
        tokens.run(place === first ? panel.vocab[token].replace(/^␣+/, "") : panel.vocab[token]),
      );
    });
    const quantile = found.at("quantile")[number];
    return h(
      "li",
      {},
      h(
        "span",
        { class: "number" },
        format.activation(found.at("value")[number]),
        quantile < 1 ? h("small", {}, `quantile ${Math.round(quantile * 100)}%`) : null,
      ),
      h("bdi", { class: "text" }, words),
    );
  }

  vasae.examples = { list };
})((window.vasae = window.vasae || {}));
