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
})((window.vasae = window.vasae || {}));
