// The panels of a report (a run each), with their tables as they come in.
(function (vasae) {
  "use strict";
  const { store } = vasae;
  const index = store.now("index") || { panels: [], figures: [] };
  let base = 0;
  // `base` numbers the features of all panels through: row = panel.base + feature.
  const panels = index.panels.map((about) => {
    const panel = { ...about, vocabKey: about.vocab, base, table: null, vocab: null, text: null };
    base += about.features;
    return panel;
  });

  async function loadTable(panel) {
    const [table, vocab] = await Promise.all([
      store.load(`${panel.key}/table`),
      store.load(`vocab-${panel.vocabKey}`),
    ]);
    if (!panel.table) {
      panel.table = store.columns(table);
      panel.vocab = vocab;
    }
    return panel;
  }

  // All about one feature: {panel, feature, at(name) -> its line of a column, matches}.
  async function loadFeature(panel, feature) {
    await loadTable(panel);
    const key = `${panel.key}/features-${Math.floor(feature / panel.shard)}`;
    const shard = store.columns(await store.load(key));
    const place = feature % panel.shard;
    const at = (name) => store.line(shard[name], place);
    const matches = Object.entries(shard.matches).map(([other, found]) => ({
      panel: byKey(other),
      feature: found.ids.values[place],
      cosine: found.cosines.values[place],
    }));
    return { panel, feature, at, matches };
  }

  const byKey = (key) => panels.find((panel) => panel.key === key);

  // Which panel and feature a row is.
  function locate(row) {
    let low = 0;
    let high = panels.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (panels[middle].base <= row) low = middle;
      else high = middle - 1;
    }
    return { panel: panels[low], feature: row - panels[low].base };
  }

  const link = (panel, feature) => `#/feature/${panel.key}/${feature}`;

  // The first layer names of a feature, as {shown, hold}.
  function names(panel, feature) {
    const ids = store.line(panel.table.names, feature);
    const holds = store.line(panel.table.name_hold, feature);
    return Array.from(ids, (id, i) => ({ shown: panel.vocab[id], hold: holds[i] / 255 }));
  }

  vasae.index = index;
  vasae.panels = { all: panels, total: base, loadTable, loadFeature, byKey, locate, link, names };
})((window.vasae = window.vasae || {}));
