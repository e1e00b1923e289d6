// Light or dark: as the system says, unless the reader has chosen.
(function (vasae) {
  "use strict";
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

  const before = saved();
  if (before === "light" || before === "dark") root.dataset.theme = before;
  vasae.theme = { dark, toggle };
})((window.vasae = window.vasae || {}));
