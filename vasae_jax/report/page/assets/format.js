// Numbers as people read them.
(function (vasae) {
  "use strict";

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
  // Numbers in a sentence, with their thousands apart.
  const words = (text) => text.replace(/\d{4,}/g, (digits) => count(Number(digits)));
  const VERDICTS = { 1: "holds", 0: "no evidence", "-1": "contradicted" };
  const RELATIONS = ["at", "before"];

  function bucket(cosine) {
    const found = vasae.index.buckets.find(([, least]) => cosine >= least);
    return found ? found[0] : "none";
  }

  vasae.format = {
    share,
    rate,
    count,
    times,
    bucket,
    bucketWords: (name) => (name === "none" ? "near none" : name),
    words,
    capital: (text) => text[0].toUpperCase() + text.slice(1),
    activation: (value) => Number(value.toPrecision(3)).toString(),
    cosine: (value) => value.toFixed(2),
    verdict: (value) => VERDICTS[value],
    relation: (value) => RELATIONS[value],
  };
})((window.vasae = window.vasae || {}));
