// The runs of a report, with their tables as they are loaded.
(function (vasae) {
  "use strict";
  const { store } = vasae;
  const index = store.loaded("index") || { runs: [], figures: [] };
  let base = 0;
  // Features of all runs are numbered through: row = run.base + feature.
  const runs = index.runs.map((facts) => {
    const run = { ...facts, vocabKey: facts.vocab, base, table: null, vocab: null, text: null };
    base += facts.features;
    return run;
  });

  async function loadTable(run) {
    const [table, vocab] = await Promise.all([
      store.load(`${run.key}/table`),
      store.load(`vocab-${run.vocabKey}`),
    ]);
    if (!run.table) {
      run.table = store.columns(table);
      run.vocab = vocab;
    }
    return run;
  }

  // One feature: {run, number, values(name) -> its line of a column, matches in other runs}.
  async function loadFeature(run, number) {
    await loadTable(run);
    const key = `${run.key}/features-${Math.floor(number / run.shard)}`;
    const shard = store.columns(await store.load(key));
    const place = number % run.shard;
    const values = (name) => store.line(shard[name], place);
    const matches = Object.entries(shard.matches).map(([key, match]) => ({
      run: byKey(key),
      number: match.ids.values[place],
      cosine: match.cosines.values[place],
    }));
    return { run, number, values, matches };
  }

  const byKey = (key) => runs.find((run) => run.key === key);

  // The run and the feature of a row.
  function locate(row) {
    let low = 0;
    let high = runs.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (runs[middle].base <= row) low = middle;
      else high = middle - 1;
    }
    return { run: runs[low], feature: row - runs[low].base };
  }

  const link = (run, feature) => `#/feature/${run.key}/${feature}`;

  // The first tested layer names of a feature, as {text, hold}.
  function layerNames(run, feature) {
    const ids = store.line(run.table.names, feature);
    const holds = store.line(run.table.name_hold, feature);
    return Array.from(ids, (id, i) => ({ id, text: run.vocab[id], hold: holds[i] / 255 })).filter(
      ({ id }) => id >= 0,
    );
  }

  // The token of a feature's first tested layer name, -1 if it has none.
  const firstName = (run, feature) => run.table.names.values[feature * run.table.names.width];

  // The other features of `run` with the same first name and relation, those that hold most first.
  function sharing(run, feature) {
    const { relation, hold } = run.table;
    const [token, at] = [firstName(run, feature), relation.values[feature]];
    const same = (other) => firstName(run, other) === token && relation.values[other] === at;
    const found = [];
    for (let other = 0; token >= 0 && other < run.features; other += 1)
      if (other !== feature && same(other)) found.push(other);
    return found.sort((a, b) => hold.values[b] - hold.values[a]);
  }

  const names = { layerNames, firstName, sharing };
  vasae.index = index;
  vasae.runs = { all: runs, total: base, loadTable, loadFeature, byKey, locate, link, ...names };
})((window.vasae = window.vasae || {}));
