// Elements. Text goes in as text nodes alone, so that no token can become markup.
(function (vasae) {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === undefined || value === null || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name.startsWith("--")) element.style.setProperty(name, value);
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    element.append(...children.flat(Infinity).filter((child) => child || child === 0));
    return element;
  }

  vasae.h = (tag, attributes, ...children) =>
    fill(document.createElement(tag), attributes, children);
  vasae.svg = (tag, attributes, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);

  // A table: texts of its head, and rows of cells, each an element of a row or what is put in one.
  vasae.grid = (heads, rows, kind = "grid") => {
    const { h } = vasae;
    const cell = (one) => (one instanceof HTMLTableCellElement ? one : h("td", {}, one));
    const head = heads.map((text) => h("th", { scope: "col" }, text));
    const body = rows.map((cells) => h("tr", {}, cells.map(cell)));
    const table = h("table", { class: kind }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
    return h("div", { class: "scroll" }, table);
  };
})((window.vasae = window.vasae || {}));
