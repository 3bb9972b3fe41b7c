// Finds the files in what is chosen, dropped or pasted, folders included.

const inFolder = (entry) =>
  new Promise((done, fail) => {
    const reader = entry.createReader();
    const found = [];
    const next = () => reader.readEntries((some) => (some.length ? (found.push(...some), next()) : done(found)), fail);
    next();
  });

async function filesOf(entry) {
  if (entry.isFile) {
    const file = await new Promise((done, fail) => entry.file(done, fail));
    return [{ file, name: entry.fullPath.replace(/^\//, "") }];
  }
  const inner = await Promise.all((await inFolder(entry)).map(filesOf));
  return inner.flat();
}

const visible = ({ name }) => !name.split("/").some((part) => part.startsWith("."));

export async function dropped(data) {
  const entries = [...data.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.() ?? null);
  if (entries.some((entry) => entry === null)) return chosen(data.files);
  return (await Promise.all(entries.map(filesOf))).flat().filter(visible);
}

export const chosen = (files) =>
  [...files].map((file) => ({ file, name: file.webkitRelativePath || file.name })).filter(visible);
