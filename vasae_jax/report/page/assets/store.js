// Data files: each is a script that calls vasae.put(key, value), because a page that is opened from
// a disk may load scripts but may not fetch files.
(function (vasae) {
  "use strict";
  const values = new Map();
  const loading = new Map();
  const ARRAYS = {
    u1: Uint8Array,
    i1: Int8Array,
    u2: Uint16Array,
    i2: Int16Array,
    i4: Int32Array,
    f4: Float32Array,
  };

  vasae.put = (key, value) => values.set(key, value);

  function load(key) {
    if (values.has(key)) return Promise.resolve(values.get(key));
    if (!loading.has(key)) loading.set(key, request(key));
    return loading.get(key);
  }

  function request(key) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `data/${key}.js`;
      script.onerror = () => {
        loading.delete(key);
        reject(new Error(`data/${key}.js is missing from this folder`));
      };
      script.onload = () => {
        script.remove();
        resolve(values.get(key));
      };
      document.head.append(script);
    });
  }

  // A column {type, shape, data} as {shape, width, values}; `less` is subtracted from each value.
  function unpack(packed) {
    const text = atob(packed.data);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    let array = new ARRAYS[packed.type](bytes.buffer);
    if (packed.less) array = Int32Array.from(array, (value) => value - packed.less);
    const width = packed.shape.slice(1).reduce((a, b) => a * b, 1);
    return { shape: packed.shape, width, values: array };
  }

  // The values of line `index` of a column.
  function line(column, index) {
    return column.values.subarray(index * column.width, (index + 1) * column.width);
  }

  // The same of every column in a tree of them.
  function columns(packed) {
    const unpacked = {};
    for (const [name, value] of Object.entries(packed)) {
      unpacked[name] = value.data !== undefined ? unpack(value) : columns(value);
    }
    return unpacked;
  }

  vasae.store = { load, columns, line, loaded: (key) => values.get(key) };
})((window.vasae = window.vasae || {}));
