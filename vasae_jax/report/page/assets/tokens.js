// Tokens: alone as a chip in which a space shows, and in running text.
(function (vasae) {
  "use strict";
  const { h } = vasae;
  // What the printable form of a token is made of: spaces, escapes, and other text.
  const PARTS = /␣|\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|\\|\(empty\))|[^␣\\]+/g;

  function parts(shown, space) {
    return (shown.match(PARTS) || []).map((part) => {
      if (part === "␣") return space;
      if (part === "\\x0a") return h("i", { class: "esc" }, "⏎");
      if (part === "\\\\") return "\\";
      return part[0] === "\\" ? h("i", { class: "esc" }, part) : part;
    });
  }

  // A token by itself; bdi keeps scripts that run right to left to themselves.
  function chip(shown, attributes) {
    const mark = () => h("i", { class: "space" }, "␣");
    const content = (shown.match(PARTS) || []).map((part) =>
      part === "␣" ? mark() : parts(part, ""),
    );
    return h("bdi", { class: "chip", ...attributes }, content);
  }

  // A token in a line of text.
  const run = (shown) => parts(shown, " ");

  vasae.tokens = { chip, run };
})((window.vasae = window.vasae || {}));
