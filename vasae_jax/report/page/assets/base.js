// What every page needs: the theme, elements, tokens and numbers as text. It is loaded before the
// page is drawn, so that a chosen theme shows from the start.
(function (vasae) {
  "use strict";
  // Light or dark: as the system says, unless the reader has chosen.
  const root = document.documentElement;

  function saved() {
    try {
      return localStorage.getItem("vasae-theme");
    } catch (error) {
      return null; // a page from a disk may have no storage
    }
  }

  function dark() {
    const chosen = root.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function toggle() {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("vasae-theme", root.dataset.theme);
    } catch (error) {
      // the choice then lasts as long as the page
    }
    dispatchEvent(new Event("vasae-theme"));
  }

  const chosen = saved();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  vasae.theme = { dark, toggle };

  // Text of others with what hides as escapes: control and format characters, overrides of the
  // direction of writing, halves of surrogate pairs. Ends of lines stay, as in the citation.
  const HIDDEN = /(?!\n)[\p{Cc}\p{Cf}\p{Cs}\p{Cn}\p{Co}\p{Zl}\p{Zp}]/gu;

  function plain(text) {
    return String(text).replace(HIDDEN, (character) => {
      const code = character.codePointAt(0);
      const [letter, digits] = code < 128 ? ["x", 2] : code < 65536 ? ["u", 4] : ["U", 8];
      return `\\${letter}${code.toString(16).padStart(digits, "0")}`;
    });
  }

  // Elements. Text goes in as text nodes alone, so that no token can become markup.
  const SVG = "http://www.w3.org/2000/svg";
  const TOLD = new Set(["title", "alt", "aria-label"]); // attributes that people read

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === undefined || value === null || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name.startsWith("--")) element.style.setProperty(name, value);
      else element.setAttribute(name, value === true ? "" : TOLD.has(name) ? plain(value) : value);
    }
    const parts = children.flat(Infinity).filter((child) => child || child === 0);
    element.append(...parts.map((part) => (part instanceof Node ? part : plain(part))));
    return element;
  }

  const h = (tag, attributes, ...children) =>
    fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);

  // A table from the texts of its head and the contents of its rows; a cell may be a th or td.
  const grid = (heads, rows, kind = "grid") => {
    const cell = (content, place) =>
      content instanceof HTMLTableCellElement
        ? content
        : h("td", { "data-head": heads[place] }, content);
    const head = heads.map((text) => h("th", { scope: "col" }, text));
    const body = rows.map((cells) => h("tr", {}, cells.map(cell)));
    const table = h("table", { class: kind }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
    return h("div", { class: "scroll" }, table);
  };

  // Numbers as people read them.
  function share(value) {
    if (!(value > 0)) return "0%";
    if (value >= 0.0995) return `${Math.round(value * 100)}%`;
    if (value >= 0.00095) return `${(value * 100).toFixed(1)}%`;
    return "<0.1%";
  }

  function rate(value) {
    if (!(value > 0)) return "never";
    const digits = value >= 0.1 ? 1 : value >= 0.001 ? 2 : 3;
    return `${(value * 100).toFixed(digits)}%`;
  }

  const count = (value) => Math.round(value).toLocaleString("en");
  const times = (value) => (value >= 100 ? `${count(value)}×` : `${value.toPrecision(2)}×`);
  // The numbers of a sentence with their thousands apart.
  const groupDigits = (text) => text.replace(/\d{4,}/g, (digits) => count(Number(digits)));
  const VERDICTS = { 1: "holds", 2: "in part", "-1": "does not hold", 0: "untested" };
  const RELATIONS = ["at", "before"];

  function bucket(cosine) {
    const bucketOf = vasae.index.buckets.find(([, least]) => cosine >= least);
    return bucketOf ? bucketOf[0] : "none";
  }

  const format = {
    share,
    rate,
    count,
    times,
    bucket,
    bucketWords: (name) => (name === "none" ? "near none" : name),
    groupDigits,
    capital: (text) => text[0].toUpperCase() + text.slice(1),
    activation: (value) => Number(value.toPrecision(3)).toString(),
    cosine: (value) => value.toFixed(2),
    verdict: (value) => VERDICTS[value],
    verdictClass: (value) => `verdict ${VERDICTS[value].replaceAll(" ", "-")}`,
    relation: (value) => RELATIONS[value],
  };

  // Tokens: alone as a chip in which a space shows, and in running text.
  // What the printable form of a token is made of: spaces, escapes, and other text.
  const PARTS = /␣|\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|\\|\(empty\))|[^␣\\]+/g;

  function parts(text, space) {
    return (text.match(PARTS) || []).map((part) => {
      if (part === "␣") return space;
      if (part === "\\x0a") return h("i", { class: "esc" }, "⏎");
      if (part === "\\\\") return "\\";
      return part[0] === "\\" ? h("i", { class: "esc" }, part) : part;
    });
  }

  // A token by itself; bdi keeps scripts that run right to left to themselves.
  function chip(text, attributes) {
    const mark = () => h("i", { class: "space" }, "␣");
    const content = (text.match(PARTS) || []).map((part) =>
      part === "␣" ? mark() : parts(part, ""),
    );
    return h("bdi", { class: "chip", ...attributes }, content);
  }

  // A token in a line of text.
  const inText = (text) => parts(text, " ");

  Object.assign(vasae, { h, svg, grid, format, plain, tokens: { chip, inText } });
})((window.vasae = window.vasae || {}));
