// The page: photos on the left with the viewer, settings on the right. The server keeps everything, so that the page
// finds its photos and results again when it is loaded anew.

import * as api from "./api.js";
import { FileForm, Form, element } from "./form.js";
import { chosen, dropped } from "./upload.js";
import { Viewer } from "./viewer.js";

const at = (id) => document.getElementById(id);
const ENDED = new Set(["done", "failed", "cancelled"]);
const QUICK = 500, SLOW = 3000; // milliseconds between two looks at the server
const viewer = new Viewer();

const photos = new Map(); // what the server told of each photo, or what failed here
let jobs = [];
let photoId = null; // which is shown
let jobId = null;
let form = null, files = null, limits = {};
let lost = false;

const jobsOf = (id) => jobs.filter((job) => job.photo === id);
const lastOf = (id) => jobsOf(id).at(-1);
const shownJob = () => jobs.find((job) => job.id === jobId);

function say(text) {
  at("spoken").textContent = text;
}

function complain(text) {
  at("form-error").textContent = text;
  at("form-error").hidden = !text;
}

// ---- uploads

async function take(list) {
  complain("");
  const queue = [...list];
  const next = async () => {
    for (let each = queue.shift(); each; each = queue.shift()) await send(each);
  };
  await Promise.all([next(), next()]);
}

async function send({ file, name }) {
  const id = `local-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  photos.set(id, { id, name, uploading: true });
  draw();
  const most = name.toLowerCase().endsWith(".zip") ? limits.max_zip_mb : limits.max_file_mb;
  try {
    if (file.size > most * 1e6) throw new Error(`The file has ${(file.size / 1e6).toFixed(1)} MB, and ${most} MB is the most here.`);
    const found = await api.upload(file, name);
    photos.delete(id);
    for (const [i, photo] of found.entries()) {
      photo.id ??= `${id}-${i}`; // one that could not be read has none
      photos.set(photo.id, photo);
    }
    const first = found.find((photo) => photo.width);
    if (first) choose(first.id);
    say(`${name} is uploaded.`);
  } catch (error) {
    photos.set(id, { id, name, error: error.message });
    say(`${name}: ${error.message}`);
  }
  draw();
}

// ---- what is shown

function choose(id, job = null) {
  photoId = id;
  jobId = (job ?? jobsOf(id).filter((each) => each.state === "done").at(-1) ?? lastOf(id))?.id ?? null;
  draw();
}

function stateWords(photo, job) {
  if (photo.error) return photo.error;
  if (photo.uploading) return "Uploading";
  if (!job) return `${photo.width} × ${photo.height}`;
  if (job.state === "waiting") return job.ahead ? `${job.ahead} before it in the queue` : "Next in the queue";
  if (job.state === "done") return `${job.result.width} × ${job.result.height}, in ${job.result.seconds} s`;
  if (job.state === "failed") return job.error;
  if (job.state === "cancelled") return "Cancelled";
  return (job.stage || "Restoring") + (job.seconds ? `, ${job.seconds} s` : "");
}

// Puts nodes in the place of others with the same key, and leaves those alone that stay, so that the focus stays.
function keep(list, items, make, update) {
  const have = new Map([...list.children].map((node) => [node.dataset.key, node]));
  const nodes = items.map((item) => {
    const node = have.get(item.id) ?? make(item);
    node.dataset.key = item.id;
    update(node, item);
    return node;
  });
  if (nodes.length !== list.children.length || nodes.some((node, i) => node !== list.children[i])) list.replaceChildren(...nodes);
}

const set = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

function makePhoto(photo) {
  const name = photo.name.split("/").at(-1);
  const pick = element("button", { type: "button", class: "pick", title: photo.name }, name);
  pick.addEventListener("click", () => photos.get(photo.id)?.width && choose(photo.id));
  const remove = element("button", { type: "button" }, "✕");
  remove.addEventListener("click", () => removePhoto(photo.id));
  const image = element("img", { alt: "", width: 64, height: 64, src: photo.width ? `/api/photos/${photo.id}/small` : "/page/none.svg" });
  image.addEventListener("error", () => { image.src = "/page/none.svg"; }, { once: true }); // the end of a photo may be missing
  return element("li", { class: "photo" }, image, element("div", {}, pick, element("p", { class: "state" }), element("progress", { max: 1, "aria-label": `Progress of ${name}`, hidden: true })), remove);
}

function updatePhoto(node, photo) {
  const all = jobsOf(photo.id);
  const running = all.filter((job) => !ENDED.has(job.state));
  const job = running[0] ?? all.at(-1);
  const several = running.length > 1 ? ` (${running.length} to do)` : "";
  node.classList.toggle("chosen", photo.id === photoId);
  node.classList.toggle("failed", Boolean(photo.error) || job?.state === "failed");
  node.querySelector(".pick").setAttribute("aria-pressed", String(photo.id === photoId));
  set(node.querySelector(".state"), stateWords(photo, job) + several);
  const bar = node.querySelector("progress");
  bar.hidden = !(photo.uploading || running.length);
  if (running.length) bar.value = job.share;
  else bar.removeAttribute("value");
  const button = node.lastChild;
  const words = running.length ? `Cancel ${photo.name}` : `Remove ${photo.name}`;
  button.setAttribute("aria-label", words);
  button.title = words;
}

function drawViewer() {
  const photo = photos.get(photoId);
  const job = shownJob();
  if (!photo?.width) {
    viewer.clear();
  } else {
    const done = job?.state === "done";
    viewer.show({
      before: `/api/photos/${photo.id}/view`,
      after: done ? `/api/jobs/${job.id}/view` : null,
      width: done ? job.result.width : photo.width,
      height: done ? job.result.height : photo.height,
      name: photo.name,
    });
  }
  const running = photo && (job && !ENDED.has(job.state) ? job : null);
  at("busy").hidden = !running;
  if (running) {
    set(at("busy-words"), stateWords(photo, running));
    if (running.share || running.state === "waiting") at("busy-bar").value = running.share;
    else at("busy-bar").removeAttribute("value");
  }
}

let detailed = null;

function drawDetails() {
  const job = shownJob();
  const done = job?.state === "done" ? job : null;
  at("details").hidden = !done;
  if (!done) {
    detailed = null;
    return;
  }
  at("download").href = `/api/jobs/${done.id}/result?${files.query}`;
  const all = jobs.filter((each) => each.state === "done");
  at("download-all").href = `/api/results.zip?jobs=${all.map((each) => each.id).join(",")}&${files.query}`;
  at("download-all").hidden = all.length < 2;
  if (detailed === done.id) return; // what follows never changes, and may hold what is being written
  detailed = done.id;
  const { result } = done;
  const facts = {
    Model: done.given.model,
    Size: `${result.width} × ${result.height}`,
    Time: `${result.seconds} s on ${result.device}`,
    Tiles: result.tiles > 1 ? result.tiles : null,
    Seed: result.seed,
  };
  at("facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value !== null).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
  at("notes").replaceChildren(...done.notes.map((note) => element("li", {}, note)));
  at("keep-seed").hidden = result.seed === null;
  at("command").textContent = result.command;
  at("python").textContent = result.python;
  drawPrompts(done);
}

function drawPrompts(job) {
  const names = form.chosenModel && !form.about.models.find((model) => model.name === job.given.model)?.ignores.includes("prompt") ? ["prompt", "low_prompt"] : [];
  at("prompts-card").hidden = !names.length;
  at("prompts").replaceChildren(...names.map((name) => {
    const said = job.result.prompts[name];
    const about = form.about.dials.find((dial) => dial.name === name);
    const source = said?.source === "user" ? "By you." : said ? `By the prompt provider${said.source ? ` (${said.source})` : ""}.` : "There is none.";
    return element("div", { class: "dial" },
      element("label", { for: `said-${name}` }, about.label),
      element("textarea", { id: `said-${name}`, rows: 4, maxlength: 2000, "aria-describedby": `said-${name}-help` }, said?.text ?? ""),
      element("p", { class: "hint", id: `said-${name}-help` }, `${about.help} ${source}`));
  }));
}

function makeVersion(job) {
  const pick = element("button", { type: "button", class: "pick" });
  pick.addEventListener("click", () => {
    choose(job.photo, job);
    at("viewer").scrollIntoView({ block: "nearest" });
  });
  const remove = element("button", { type: "button" }, "✕");
  remove.addEventListener("click", () => removeJob(job.id));
  return element("li", {}, element("div", { class: "frame" }, element("p")), element("div", { class: "caption" }, pick, remove));
}

function drawVersions() {
  const all = photoId ? jobsOf(photoId) : [];
  at("versions").hidden = all.length < 2;
  keep(at("grid"), all.length < 2 ? [] : all, makeVersion, (node, job) => {
    const title = job.title || `Version ${all.indexOf(job) + 1}`;
    node.classList.toggle("chosen", job.id === jobId);
    const frame = node.querySelector(".frame");
    if (job.state === "done" && !frame.querySelector("img")) {
      frame.replaceChildren(element("img", { alt: "", loading: "lazy", src: `/api/jobs/${job.id}/view` }));
    } else if (job.state !== "done") {
      const photo = photos.get(job.photo);
      if (photo) set(frame.querySelector("p"), stateWords(photo, job));
    }
    const pick = node.querySelector(".pick");
    set(pick, title);
    pick.setAttribute("aria-pressed", String(job.id === jobId));
    const words = ENDED.has(job.state) ? `Remove ${title}` : `Cancel ${title}`;
    node.querySelector(".caption > button:last-child").setAttribute("aria-label", words);
    node.querySelector(".caption > button:last-child").title = words;
  });
}

function drawButtons() {
  const photo = photos.get(photoId);
  const several = [...photos.values()].filter((each) => each.width).length;
  at("restore").disabled = !photo?.width || lost;
  at("restore-all").hidden = several < 2;
  set(at("restore-all"), `Restore all ${several} photos`);
  at("sheet-make").disabled = at("restore").disabled;
}

function draw() {
  if (!form) return;
  if (!photos.has(photoId)) photoId = [...photos.values()].find((photo) => photo.width)?.id ?? null;
  if (!shownJob() || shownJob().photo !== photoId) jobId = photoId ? (lastOf(photoId)?.id ?? null) : null;
  keep(at("list"), [...photos.values()], makePhoto, updatePhoto);
  drawViewer();
  drawDetails();
  drawVersions();
  drawButtons();
}

// ---- the server

async function refresh() {
  const before = new Map(jobs.map((job) => [job.id, job.state]));
  const asked = new Set(photos.keys()); // what is uploaded while the answer is on its way may be missing in it
  const [ownPhotos, ownJobs] = await Promise.all([api.photos(), api.jobs()]);
  if (lost) {
    lost = false;
    at("banner").hidden = true;
    say("The server can be reached again.");
  }
  const known = new Set(ownPhotos.map((photo) => photo.id));
  for (const photo of photos.values()) {
    if (photo.width && asked.has(photo.id) && !known.has(photo.id)) photos.set(photo.id, { id: photo.id, name: photo.name, error: "The server has deleted it: upload it again." });
  }
  for (const photo of ownPhotos) if (!photos.has(photo.id)) photos.set(photo.id, photo);
  jobs = ownJobs;
  for (const job of jobs) {
    if (before.has(job.id) && before.get(job.id) !== job.state && ENDED.has(job.state)) {
      say(`${job.name} ${job.title}: ${job.state === "failed" ? job.error : job.state}`);
    }
  }
  const waiting = jobs.filter((job) => !ENDED.has(job.state)).length;
  set(at("server"), waiting ? `${waiting} to do` : "");
  draw();
}

let timer = null;

async function watch() {
  clearTimeout(timer);
  try {
    await refresh();
  } catch (error) {
    lost = true;
    at("banner").textContent = `${error.message} The page tries again.`;
    at("banner").hidden = false;
    drawButtons();
  }
  timer = setTimeout(watch, !lost && jobs.some((job) => !ENDED.has(job.state)) ? QUICK : SLOW);
}

async function restore(ids, settings, titles = [""]) {
  complain("");
  if (form.problem) return complain(form.problem);
  try {
    let first = null;
    for (const id of ids) {
      for (const [i, title] of titles.entries()) {
        const job = await api.restore(id, Array.isArray(settings) ? settings[i] : settings, title);
        jobs.push(job);
        first ??= job;
      }
    }
    photoId = first.photo;
    jobId = first.id;
    draw();
    at("viewer").scrollIntoView({ block: "nearest" });
    say("It is in the queue.");
  } catch (error) {
    complain(error.message);
  }
  watch();
}

async function removeJob(id) {
  try {
    await api.removeJob(id);
  } catch (error) {
    complain(error.message);
  }
  watch();
}

async function removePhoto(id) {
  const running = jobsOf(id).filter((job) => !ENDED.has(job.state));
  if (running.length) {
    for (const job of running) await removeJob(job.id);
    return;
  }
  const { width } = photos.get(id);
  photos.delete(id);
  jobs = jobs.filter((job) => job.photo !== id);
  draw();
  at("files").focus();
  if (width) await api.removePhoto(id).catch((error) => complain(error.message));
}

// ---- sheets

function suggested(dial) {
  const { choices, kind, least, most } = dial.about;
  if (choices) return choices.join(", ");
  if (kind === "boolean") return "true, false";
  if (least !== null && most !== null && most - least <= 8) {
    const values = [0, 0.25, 0.5, 0.75, 1].map((share) => least + share * (most - least));
    return [...new Set(kind === "integer" ? values.map(Math.round) : values)].join(", ");
  }
  const own = Number(dial.own ?? least ?? 1) || 1;
  return [...new Set([own / 2, own, own * 2].map((value) => Math.max(least ?? 0, kind === "integer" ? Math.round(value) : value)))].join(", ");
}

function listDials() {
  const before = at("sheet-dial").value;
  const dials = form.comparable;
  at("sheet-dial").replaceChildren(...dials.map((dial) => element("option", { value: dial.about.name }, dial.about.label)));
  at("sheet-dial").value = dials.some((dial) => dial.about.name === before) ? before : "fidelity";
  if (at("sheet-dial").value !== before || !at("sheet-values").value) at("sheet-values").value = suggested(form.dials.get(at("sheet-dial").value));
}

function makeSheet() {
  const dial = form.dials.get(at("sheet-dial").value);
  const texts = at("sheet-values").value.split(",").map((text) => text.trim()).filter(Boolean);
  const numbers = dial.about.kind === "integer" || dial.about.kind === "number";
  if (!texts.length || (numbers && texts.some((text) => Number.isNaN(Number(text))))) {
    return complain(`${dial.about.label}: write values with commas between them, such as ${suggested(dial)}.`);
  }
  const base = form.value;
  if (!form.chosenModel.ignores.includes("seed")) base.seed ??= crypto.getRandomValues(new Uint32Array(1))[0];
  const settings = texts.map((text) => ({ ...base, [dial.about.name]: numbers ? Number(text) : dial.about.kind === "boolean" ? text === "true" : text }));
  return restore([photoId], settings, texts.map((text) => `${dial.about.label} ${text}`));
}

// ---- beginning

function listen() {
  at("files").addEventListener("change", (event) => { take(chosen(event.target.files)); event.target.value = ""; });
  at("folder").addEventListener("change", (event) => { take(chosen(event.target.files)); event.target.value = ""; });
  document.addEventListener("paste", (event) => event.clipboardData.files.length && take(chosen(event.clipboardData.files)));
  document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? at("drop").classList.remove("over"));
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    take(await dropped(event.dataTransfer));
  });
  at("form").addEventListener("submit", (event) => { event.preventDefault(); restore([photoId], form.value); });
  at("restore-all").addEventListener("click", () => restore([...photos.values()].filter((photo) => photo.width).map((photo) => photo.id), form.value));
  at("reset").addEventListener("click", () => { form.value = { model: form.model.value }; complain(""); remember(); });
  at("busy-cancel").addEventListener("click", () => removeJob(jobId));
  at("keep-seed").addEventListener("click", () => { form.dials.get("seed").value = shownJob().result.seed; remember(); say("The seed is kept."); });
  at("again").addEventListener("click", () => {
    const job = shownJob();
    const said = Object.fromEntries(["prompt", "low_prompt"].map((name) => [name, at(`said-${name}`).value]));
    restore([job.photo], { ...job.given, seed: job.result.seed, ...said });
  });
  at("sheet-dial").addEventListener("change", () => { at("sheet-values").value = suggested(form.dials.get(at("sheet-dial").value)); });
  at("sheet-make").addEventListener("click", makeSheet);
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(at(button.dataset.of).textContent);
      say("Copied.");
    });
  }
  at("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = document.documentElement.style.colorScheme || (dark ? "dark" : "light");
    setTheme(now === "dark" ? "light" : "dark");
  });
}

function setTheme(theme) {
  document.documentElement.style.colorScheme = theme;
  localStorage.setItem("xpsr-theme", theme);
}

function remember() {
  sessionStorage.setItem("xpsr-settings", JSON.stringify(form.value));
  listDials();
}

async function begin() {
  if (localStorage.getItem("xpsr-theme")) setTheme(localStorage.getItem("xpsr-theme"));
  listen();
  const about = await api.options();
  limits = about.limits;
  at("limits").textContent = `Up to ${limits.max_file_mb} MB and ${limits.max_megapixels} megapixels a photo. What you upload is deleted ${limits.keep_minutes} minutes after you last used it, and nobody else sees it.`;
  form = new Form(about, at("dials"), remember);
  files = new FileForm(about.files, at("file-dials"), draw);
  const kept = sessionStorage.getItem("xpsr-settings");
  if (kept) form.value = JSON.parse(kept);
  listDials();
  await watch();
  if (photoId) choose(photoId);
}

begin().catch((error) => {
  at("banner").textContent = error.message;
  at("banner").hidden = false;
});
