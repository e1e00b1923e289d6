// The colours of a heatmap.
(function (vasae) {
  "use strict";
  // From the page's pale to its deep colour; ink is black or white, whichever stands out more.
  function paint() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number);
    const low = read("--ramp-low"),
      high = read("--ramp-high");
    return (t) => {
      const rgb = low.map((value, i) => Math.round(value + (high[i] - value) * t));
      const [r, g, b] = rgb
        .map((value) => value / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      const light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
      return { background: `rgb(${rgb.join(" ")})`, ink: light > 0.179 ? "#000" : "#fff" };
    };
  }

  vasae.paint = paint;
})((window.vasae = window.vasae || {}));
