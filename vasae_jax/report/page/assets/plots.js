// Small pictures: bars, densities, histograms.
(function (vasae) {
  "use strict";
  const { h, svg, format } = vasae;

  // A share as a bar, with a tick where shuffled names would be.
  function bar(share, shuffled) {
    const tick = shuffled === undefined ? null : h("i", { "--at": Math.min(shuffled, 1) });
    return h(
      "span",
      { class: "meter", "aria-hidden": "true", "--share": Math.min(share, 1) },
      tick,
    );
  }

  // Rows on which a feature fires and rows with its name, as two bars that overlap where both are.
  function overlap(fired, both, named) {
    const all = Math.max(fired + named - both, 1);
    const bar = (kind, start, width) =>
      svg("rect", { class: kind, x: (100 * start) / all, width: (100 * width) / all, y: 0, height: 10 });
    return svg(
      "svg",
      {
        class: "overlap",
        viewBox: "0 0 100 10",
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `${format.count(fired)} rows fire, ${format.count(named)} have the name, ${format.count(both)} both`,
      },
      bar("fired", 0, fired - both),
      bar("both", fired - both, both),
      bar("named", fired, named - both),
    );
  }

  // Counts [n] from 0 to 255 as a small filled curve of steps.
  function spark(heights) {
    const n = heights.length;
    const steps = Array.from(heights, (value, i) =>
      value ? `M${i} 16v${(-1 - (15 * value) / 255).toFixed(2)}h.86V16z` : "",
    );
    return svg(
      "svg",
      {
        class: "spark",
        viewBox: `0 0 ${n} 16`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
        focusable: "false",
      },
      svg("path", { d: steps.join("") }),
    );
  }

  // A histogram of counts between edges, on a log scale of activations.
  function histogram(counts, edges) {
    const used = counts.map((value, i) => [value, i]).filter(([value]) => value > 0);
    if (!used.length) return h("p", { class: "quiet" }, "It fires on no row that was read.");
    const first = used[0][1];
    const last = used[used.length - 1][1] + 1;
    const most = Math.max(...counts);
    const width = 480,
      height = 130,
      step = width / (last - first);
    const bars = used.map(([value, i]) =>
      svg(
        "rect",
        {
          x: ((i - first) * step + 1).toFixed(1),
          width: Math.max(step - 2, 1).toFixed(1),
          y: (height - (height * value) / most).toFixed(1),
          height: ((height * value) / most).toFixed(1),
          rx: 1.5,
        },
        svg(
          "title",
          {},
          `${format.activation(edges[i])} to ${format.activation(edges[i + 1])}: ` +
            `${format.count(value)} rows`,
        ),
      ),
    );
    const every = Math.ceil((last - first) / 6);
    const ticks = [];
    for (let i = first; i <= last; i += every) {
      const anchor = i === first ? "start" : i === last ? "end" : "middle";
      ticks.push(
        svg(
          "text",
          { x: (i - first) * step, y: height + 17, "text-anchor": anchor },
          format.activation(edges[i]),
        ),
      );
    }
    const total = counts.reduce((a, b) => a + b, 0);
    return h(
      "figure",
      { class: "histogram" },
      svg(
        "svg",
        {
          viewBox: `0 0 ${width} ${height + 22}`,
          role: "img",
          "aria-label": `Histogram of ${format.count(total)} activations`,
        },
        bars,
        ticks,
      ),
      h(
        "figcaption",
        {},
        `${format.count(total)} firings by activation (log scale); the highest ` +
          `bar has ${format.count(most)}`,
      ),
    );
  }

  vasae.plots = { bar, overlap, spark, histogram };
})((window.vasae = window.vasae || {}));
