// One state, which the address keeps; every change of it asks the server, and only the latest answer is shown.
const PAGE = 24;
const $ = (id) => document.getElementById(id);
const start = () => ({ query: null, where: {}, offset: 0 });
let state = start();
let archive = { attributes: [], filters: [], bits: 1 };
let last = null; // the answer that is shown
let asking = null; // the request that is under way
let keyboard = false; // whether the list was last used by keys

// ------------------------------------------------------------------------------------------------------------ helpers

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A name as people write it: `has_wing_color::blue` is `wing color: blue`. */
function readable(name) {
  return name.replace(/^\d+\./, "").replace(/^has_/, "").replace("::", ": ").replace(/[_+]/g, " ").trim();
}

const base = (path) => path.slice(path.lastIndexOf("/") + 1);
const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const picture = (numbering, row, large = false) =>
  `api/images/${encodeURIComponent(numbering)}/${row}${large ? "?large=true" : ""}`;

async function ask(path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, {
      signal, method: body === undefined ? "GET" : "POST",
      ...(body === undefined ? {} : body instanceof Blob ? { body } :
        { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is razh serve still running?");
  }
  const content = await answer.json().catch(() => ({ error: `The server answered with status ${answer.status}.` }));
  if (!answer.ok) throw Object.assign(new Error(content.error), { status: answer.status });
  return content;
}

// ------------------------------------------------------------------------------------------- the state in the address

function address() {
  const words = new URLSearchParams();
  const { query, where, offset } = state;
  if (query?.row !== undefined) { words.set("row", query.row); words.set("of", query.numbering); }
  if (query?.upload) words.set("photo", query.upload);
  if (query?.words) words.set("words", query.words);
  for (const one of query?.attributes ?? []) words.append("with", `${one.name}=${one.strength}`);
  for (const [column, chosen] of Object.entries(where)) words.append("only", `${column}=${chosen}`);
  if (offset) words.set("from", offset);
  return words.size ? `#${words}` : location.pathname;
}

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  const halves = (text, mark) => [text.slice(0, text.lastIndexOf(mark)), text.slice(text.lastIndexOf(mark) + 1)];
  state = start();
  if (words.has("row")) state.query = { row: Number(words.get("row")), numbering: words.get("of") ?? "" };
  else if (words.has("photo")) state.query = { upload: words.get("photo") };
  else if (words.has("words")) state.query = { words: words.get("words") };
  else if (words.has("with")) {
    const attributes = words.getAll("with").map((text) => halves(text, "="));
    state.query = { attributes: attributes.map(([name, strength]) => ({ name, strength: Number(strength) })) };
  }
  for (const text of words.getAll("only")) {
    const at = text.indexOf("=");
    state.where[text.slice(0, at)] = text.slice(at + 1);
  }
  state.offset = Math.max(0, Number(words.get("from")) || 0);
}

/** Change the state and search; `replace` makes no new step for the browser's Back. */
function go(change, { replace = false } = {}) {
  state = { ...state, offset: 0, ...change };
  history[replace ? "replaceState" : "pushState"](null, "", address());
  return search();
}

// ------------------------------------------------------------------------------------------------------------- search

async function search() {
  asking?.abort();
  const mine = (asking = new AbortController());
  showQuery();
  showFilters();
  for (const id of ["problem", "nothing"]) $(id).hidden = true;
  $("results").setAttribute("aria-busy", "true");
  const slow = setTimeout(() => { $("status").textContent = "Searching…"; if (!last) showWaiting(); }, 150);
  const where = Object.fromEntries(Object.entries(state.where).map(([column, word]) => [column, [word]]));
  try {
    const found = await ask("api/search", { query: state.query, where, offset: state.offset, limit: PAGE }, mine.signal);
    last = found;
    if (state.query?.row !== undefined) {
      named.set(state.query.row, found.query);
      showQuery();
    }
    showResults(found);
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error);
  } finally {
    clearTimeout(slow);
    if (asking === mine) $("results").setAttribute("aria-busy", "false");
  }
}

function showWaiting() {
  const tile = () => make("li", { className: "waiting" }, make("div", { className: "tile" }));
  $("results").replaceChildren(...Array.from({ length: 12 }, tile));
}

function showProblem(error) {
  $("problem-text").textContent = error.message[0].toUpperCase() + error.message.slice(1);
  $("problem").hidden = false;
  $("status").textContent = "";
  $("pages").hidden = true;
  $("results").replaceChildren();
  last = null;
  $("again").textContent = error.status === 404 ? "Show all images" : "Try again";
  $("again").onclick = () => (error.status === 404 ? go(start()) : search());
}

function showResults(found) {
  const { hits, total, offset } = found;
  $("nothing").hidden = hits.length > 0;
  $("unfilter").hidden = !Object.keys(state.where).length;
  $("status").textContent = hits.length
    ? `${(offset + 1).toLocaleString("en")}–${(offset + hits.length).toLocaleString("en")} of ${counted(total, "image")}` +
      (state.query ? ", nearest first" : "")
    : "";
  const { understood, unknown } = found;
  $("query-told").textContent = !state.query?.words ? ""
    : `Understood as ${understood.split(", ").map(readable).join(", ")}` + (unknown.length ? `; not understood: ${unknown.join(", ")}` : "");
  $("results").replaceChildren(...hits.map((hit, place) => tileOf(hit, found, place)));
  $("pages").hidden = total <= PAGE;
  $("previous").disabled = offset === 0;
  $("next").disabled = offset + hits.length >= total || !hits.length;
  $("place").textContent = `${Math.floor(offset / PAGE) + 1} of ${Math.max(1, Math.ceil(total / PAGE))}`;
  if (keyboard) $("results").querySelector(".tile")?.focus();
}

function tileOf(hit, found, place) {
  const told = archive.filters.some(({ column }) => column === "class"); // else all have the same, or none
  const name = told && hit.class ? readable(hit.class) : base(hit.path);
  const far = hit.distance === null ? "" : `, ${counted(hit.distance, "bit")} of ${archive.bits} away`;
  const image = make("img", { alt: "", loading: "lazy", decoding: "async", src: picture(found.numbering, hit.row) });
  const tile = make("button", { type: "button", className: "tile", tabIndex: place ? -1 : 0, title: hit.path }, image);
  image.onerror = () => tile.classList.add("broken");
  tile.setAttribute("aria-label", `Search with ${name}, ${base(hit.path)}${far}`);
  tile.onclick = () => go({ query: { row: hit.row, numbering: found.numbering } }).then(() => scrollTo({ top: 0 }));
  tile.onkeydown = (event) => { if (event.key === "w" && archive.why) openWhy(hit, found.numbering); };
  const caption = make("p", { className: "name", textContent: name, title: hit.path });
  const below = make("div", { className: "below" });
  if (hit.distance !== null) {
    const bar = make("span", { className: "bar" }, make("i"));
    bar.firstChild.style.width = `${Math.max(0, 100 * (1 - (2 * hit.distance) / archive.bits))}%`;
    below.append(make("span", { className: "far", title: `${hit.distance} of ${archive.bits} bits differ` }, bar, counted(hit.distance, "bit")));
  }
  if (archive.why) {
    const why = make("button", { type: "button", className: "why", textContent: state.query ? "Why?" : "Attributes" });
    why.setAttribute("aria-label", `${state.query ? "Why" : "Attributes of"} ${name}, ${base(hit.path)}`);
    why.onclick = () => openWhy(hit, found.numbering);
    below.append(why);
  }
  return make("li", {}, tile, caption, below);
}

// -------------------------------------------------------------------------------------------------------- what is asked

const named = new Map(); // paths of rows that were asked for
let photo = null; // of the upload that is shown, while the server has no copy of it yet

function showQuery() {
  const { query } = state;
  const image = $("query-image");
  $("query").hidden = (!query || Boolean(query.attributes)) && !photo; // attributes are chips
  $("query-why").hidden = !archive.why || !query || Boolean(query.words);
  $("query-told").textContent = "";
  if (photo) image.src = photo.url;
  else if (query?.row !== undefined) image.src = picture(query.numbering, query.row);
  else if (query?.upload) image.src = `api/uploads/${query.upload}`;
  else image.removeAttribute("src");
  const name = photo?.name ?? query?.words ?? (query?.upload ? "your photo" : named.get(query?.row) ?? "");
  $("query-name").textContent = name;
  image.alt = `the query, ${name}`;
  showChips(query?.attributes ?? []);
}

function showChips(attributes) {
  $("chips").hidden = !attributes.length;
  const shown = [...$("chips").children];
  if (shown.map((chip) => chip.dataset.name).join("\n") === attributes.map((one) => one.name).join("\n")) {
    shown.forEach((chip, at) => chip.show(attributes[at].strength));
    return; // a slider that is being moved stays where it is
  }
  $("chips").replaceChildren(...attributes.map((one) => {
    const name = readable(one.name);
    const slider = make("input", { type: "range", min: 0, max: 1, step: 0.1 });
    slider.setAttribute("aria-label", `Strength of ${name}`);
    const output = make("output");
    const remove = make("button", { type: "button", textContent: "✕" });
    remove.setAttribute("aria-label", `Remove ${name}`);
    remove.onclick = () => { setAttributes(state.query.attributes.filter((other) => other.name !== one.name)); $("words").focus(); };
    slider.oninput = () => { output.value = Number(slider.value).toFixed(1); };
    slider.onchange = () => setAttributes(
      state.query.attributes.map((other) => (other.name === one.name ? { ...other, strength: Number(slider.value) } : other)),
    );
    const chip = make("li", { show: (strength) => { slider.value = strength; output.value = strength.toFixed(1); } }, name, slider, output, remove);
    chip.dataset.name = one.name;
    chip.show(one.strength);
    return chip;
  }));
}

function setAttributes(attributes) {
  photo = null;
  go({ query: attributes.length ? { attributes } : null });
}

async function upload(file) {
  if (!archive.uploads) return showProblem(new Error("Photos cannot be encoded: the checkpoint of the archive is not there."));
  if (file.size > archive.max_bytes) return showProblem(new Error(`${file.name} has more than ${archive.max_bytes / 1e6} MB; make it smaller.`));
  if (photo) URL.revokeObjectURL(photo.url);
  photo = { url: URL.createObjectURL(file), name: file.name || "pasted photo" };
  state.query = null;
  for (const id of ["problem", "nothing"]) $(id).hidden = true;
  showQuery();
  asking?.abort();
  const mine = (asking = new AbortController());
  $("results").setAttribute("aria-busy", "true");
  $("status").textContent = "Looking at the photo…";
  try {
    const sent = await ask("api/uploads", file, mine.signal);
    await go({ query: { upload: sent.upload } });
  } catch (error) {
    if (error.name === "AbortError") return;
    photo = null;
    showQuery();
    showProblem(error);
    $("again").textContent = "Show all images";
    $("again").onclick = () => go(start());
    $("results").setAttribute("aria-busy", "false");
  }
}

function showFilters() {
  $("filters").hidden = !archive.filters.length;
  if ($("filters").childElementCount !== archive.filters.length) {
    $("filters").replaceChildren(...archive.filters.map(({ column, words }) => {
      const select = make("select", {}, make("option", { value: "", textContent: `all (${words.length})` }));
      select.append(...words.map(({ word, count }) => make("option", { value: word, textContent: `${readable(word)} (${count})` })));
      select.onchange = () => {
        const { [column]: _, ...others } = state.where;
        go({ where: select.value ? { ...others, [column]: select.value } : others });
      };
      select.dataset.column = column;
      return make("label", {}, column, select);
    }));
  }
  for (const select of $("filters").querySelectorAll("select")) select.value = state.where[select.dataset.column] ?? "";
}

// -------------------------------------------------------------------------------------------------- words to attributes

const MOST_OPTIONS = 50;
let options = [];
let chosen = -1;

/** Attributes of which every typed word begins a word; those that were picked are left out. */
function matching(text) {
  const typed = text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  const picked = new Set((state.query?.attributes ?? []).map((one) => one.name));
  return archive.attributes.filter(({ name }) => {
    const words = readable(name).toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
    return !picked.has(name) && typed.every((part) => words.some((word) => word.startsWith(part)));
  });
}

function showOptions() {
  const words = $("words");
  options = matching(words.value).slice(0, MOST_OPTIONS);
  chosen = words.value.trim() && options.length ? 0 : -1;
  $("options").replaceChildren(...options.map(({ name }, at) => {
    const option = make("li", { id: `option-${at}`, role: "option", textContent: readable(name) });
    option.onmousedown = (event) => { event.preventDefault(); pick(at); };
    return option;
  }));
  if (!options.length) $("options").append(make("li", { className: "none", role: "option", textContent: "Enter searches with these words" }));
  $("options").hidden = false;
  words.setAttribute("aria-expanded", "true");
  showChosen();
}

function hideOptions() {
  $("options").hidden = true;
  $("words").setAttribute("aria-expanded", "false");
  $("words").removeAttribute("aria-activedescendant");
}

function showChosen() {
  [...$("options").children].forEach((option, at) => option.setAttribute("aria-selected", String(at === chosen)));
  if (chosen < 0) return $("words").removeAttribute("aria-activedescendant");
  $("words").setAttribute("aria-activedescendant", `option-${chosen}`);
  $(`option-${chosen}`).scrollIntoView({ block: "nearest" });
}

function pick(at) {
  const { name } = options[at];
  $("words").value = "";
  hideOptions();
  keyboard = false;
  setAttributes([...(state.query?.attributes ?? []), { name, strength: 1 }]);
}

/** Search with a whole description, which the server reads. */
function describe(words) {
  $("words").value = "";
  hideOptions();
  photo = null;
  keyboard = false;
  go({ query: { words } });
}

$("words").oninput = showOptions;
$("words").onfocus = () => { if ($("words").value) showOptions(); };
$("words").onclick = showOptions;
$("words").onblur = hideOptions;
$("words").onkeydown = (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    event.preventDefault();
    if ($("options").hidden) return showOptions();
    if (options.length) chosen = (chosen + step + options.length) % options.length;
    showChosen();
  } else if (event.key === "Enter") {
    event.preventDefault();
    const text = $("words").value.trim();
    if (!$("options").hidden && chosen >= 0) pick(chosen);
    else if (text) describe(text);
  } else if (event.key === "Escape" && !$("options").hidden) {
    event.stopPropagation();
    hideOptions();
  } else if (event.key === "Backspace" && !$("words").value && state.query?.attributes) {
    setAttributes(state.query.attributes.slice(0, -1));
  }
};
$("search").onsubmit = (event) => event.preventDefault();

// ----------------------------------------------------------------------------------------------------------------- why

const DARK = 160; // of 255, where nothing was read
let told = null;

/** Tell why a hit was found, or, without a hit, what is in the query. */
async function openWhy(hit, numbering) {
  const { query } = state;
  const dialog = $("why");
  const pair = hit && query && !query.attributes && !query.words;
  $("why-title").textContent = hit && query ? "Why this image?" : "What was found in it?";
  $("why-query").hidden = !pair;
  $("why-list").replaceChildren();
  $("why-status").textContent = "Looking…";
  $("why-note").hidden = true;
  for (const canvas of dialog.querySelectorAll("canvas")) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  const [there, here] = [$("why-hit").querySelector("img"), $("why-query").querySelector("img")];
  const own = query && (query.upload ? `api/uploads/${query.upload}` : picture(query.numbering, query.row, true));
  there.src = hit ? picture(numbering, hit.row, true) : own;
  if (pair) here.src = own;
  $("why-hit").querySelector("figcaption").textContent = hit?.path ?? "";
  if (!dialog.open) dialog.showModal();
  try {
    told = await ask("api/why", { query, ...(hit ? { row: hit.row, numbering } : {}) });
    await Promise.all([there.decode(), pair && here.decode()].map((one) => Promise.resolve(one).catch(() => {})));
    const { attributes } = told;
    $("why-status").textContent = attributes.length
      ? (pair ? "Both show" : hit && query ? "Of what was asked for, it shows" : "It shows")
      : pair ? "No attribute is strong in both; their codes are near for other reasons." : "No attribute is strong in it.";
    $("why-note").hidden = !attributes.length;
    $("why-list").replaceChildren(...attributes.map((one, at) => {
      const numbers = [one.query, one.hit].filter(Boolean).map((place) => place.strength.toFixed(1)).join(" · ");
      const button = make("button", { type: "button" }, make("span", { textContent: readable(one.name) }),
        make("span", { className: "numbers", textContent: numbers }));
      button.onclick = button.onfocus = () => showPlace(at);
      button.onmouseenter = () => showPlace(at);
      return make("li", {}, button);
    }));
    if (attributes.length) showPlace(0);
  } catch (error) {
    $("why-status").textContent = error.message;
  }
}

function showPlace(at) {
  [...$("why-list").querySelectorAll("button")].forEach((button, other) => button.setAttribute("aria-pressed", String(at === other)));
  const one = told.attributes[at];
  light($("why-hit"), one.hit, told.hit_box);
  if (one.query) light($("why-query"), one.query, told.query_box);
}

/** Darken a picture but for where an attribute was read, and ring the strongest place. */
function light(figure, place, [left, top, width, height]) {
  const [image, canvas] = [figure.querySelector("img"), figure.querySelector("canvas")];
  const [wide, high] = [image.naturalWidth || 1, image.naturalHeight || 1];
  const scale = 640 / Math.max(wide, high);
  canvas.width = wide * scale;
  canvas.height = high * scale;
  const rows = place.map.length, columns = place.map[0].length;
  const values = place.map.flat(), most = Math.max(...values, 1e-9);
  const small = make("canvas", { width: columns, height: rows });
  const shades = new ImageData(columns, rows);
  values.forEach((value, at) => { shades.data[4 * at + 3] = DARK * (1 - Math.max(0, value / most) ** 0.5); });
  small.getContext("2d").putImageData(shades, 0, 0);
  const context = canvas.getContext("2d");
  const [x, y, w, h] = [left * canvas.width, top * canvas.height, width * canvas.width, height * canvas.height];
  context.fillStyle = `rgb(0 0 0 / ${DARK / 255})`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(x, y, w, h);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, x, y, w, h);
  const at = values.indexOf(Math.max(...values));
  const [cx, cy] = [x + (w * ((at % columns) + 0.5)) / columns, y + (h * (Math.floor(at / columns) + 0.5)) / rows];
  const pixel = Math.max(canvas.width, canvas.height) / (canvas.clientWidth || 1); // of the screen
  for (const [stroke, thick] of [["rgb(0 0 0 / 70%)", 5 * pixel], ["#fff", 2.5 * pixel]]) {
    context.beginPath();
    context.arc(cx, cy, 11 * pixel, 0, 2 * Math.PI);
    Object.assign(context, { strokeStyle: stroke, lineWidth: thick });
    context.stroke();
  }
}

$("why-close").onclick = () => $("why").close();
$("why").onclick = (event) => { if (event.target === $("why")) $("why").close(); };
$("why-list").onkeydown = (event) => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...$("why-list").querySelectorAll("button")];
  buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length]?.focus();
};

// ----------------------------------------------------------------------------------------- keys, drops, buttons, start

$("results").onkeydown = (event) => {
  const tiles = [...$("results").querySelectorAll(".tile")];
  const at = tiles.indexOf(document.activeElement);
  if (at < 0) return;
  const columns = tiles.filter((tile) => tile.getBoundingClientRect().top === tiles[0].getBoundingClientRect().top).length;
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: tiles.length - 1 }[event.key];
  if (event.key === "Enter" || event.key === " ") keyboard = true;
  if (to === undefined) return;
  event.preventDefault();
  if (!tiles[to]) return;
  tiles[at].tabIndex = -1;
  tiles[to].tabIndex = 0;
  tiles[to].focus();
};
addEventListener("pointerdown", () => { keyboard = false; });
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("why").open && (state.query || Object.keys(state.where).length)) clear();
});

function clear() {
  photo = null;
  $("words").value = "";
  go(start());
}

$("clear").onclick = clear;
$("unfilter").onclick = () => go({ where: {} });
$("previous").onclick = () => go({ offset: Math.max(0, state.offset - PAGE) }).then(() => scrollTo({ top: 0 }));
$("next").onclick = () => go({ offset: state.offset + PAGE }).then(() => scrollTo({ top: 0 }));
$("file").onchange = () => { if ($("file").files[0]) upload($("file").files[0]); $("file").value = ""; };

let inside = 0; // dragenter and dragleave of everything below the pointer
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => { if (hasFiles(event)) { inside += 1; $("drop").hidden = false; } });
addEventListener("dragleave", (event) => { if (hasFiles(event) && --inside <= 0) { inside = 0; $("drop").hidden = true; } });
addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  inside = 0;
  $("drop").hidden = true;
  if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) upload(file);
});
addEventListener("popstate", () => { photo = null; readAddress(); search(); });

async function begin() {
  readAddress();
  try {
    archive = await ask("api/archive");
  } catch (error) {
    showProblem(error);
    $("again").onclick = () => { $("problem").hidden = true; begin(); };
    return;
  }
  document.title = `${archive.name} – razh`;
  $("archive").textContent = archive.name;
  $("size").textContent = `${counted(archive.images, "image")} · ${archive.bits} bits`;
  $("file").disabled = !archive.uploads;
  $("words").disabled = !archive.attributes.length;
  const parts = archive.attributes.filter(({ part }, at, all) => all.findIndex((other) => other.part === part) === at);
  $("words").placeholder = archive.attributes.length
    ? `Describe it: ${parts.slice(0, 2).map((one) => readable(one.name)).join(", ")} …`
    : `No attributes: ${archive.attributes_problem}`;
  $("w-key").hidden = !archive.why;
  $("query-why").onclick = () => openWhy(null);
  await search();
}

begin();
