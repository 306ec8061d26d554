// What to begin from: the server's scenes, a seed, or one's own picture.

import { element } from "./element.js";
import { upload } from "./upload.js";

const SEEDS = 2 ** 31;

export class Scenes {
  /** parts: {list, seed, newSeed, uploadButton, uploadFile}. begin(scene, seed) resets; failed(text) tells why not. */
  constructor(parts, token, begin, failed) {
    this.parts = parts;
    this.begin = begin;
    this.tiles = new Map(); // by scene
    parts.newSeed.addEventListener("click", () => this.#again(Math.floor(Math.random() * SEEDS)));
    parts.seed.addEventListener("keydown", ({ code }) => code === "Enter" && this.#again(this.seed));
    parts.uploadButton.addEventListener("click", () => parts.uploadFile.click());
    parts.uploadFile.addEventListener("change", async () => {
      const [file] = parts.uploadFile.files;
      parts.uploadFile.value = "";
      if (!file) return;
      try {
        const scene = await upload(file, token);
        this.#tile({ id: scene, name: file.name });
        this.begin(scene, this.seed);
      } catch (error) {
        failed(error.message);
      }
    });
  }

  get seed() {
    const typed = Number(this.parts.seed.value);
    return Number.isSafeInteger(typed) && typed >= 0 ? typed : 0;
  }

  /** scenes: of the welcome. Those that are there stay. */
  offer(scenes) {
    scenes.forEach((scene) => this.#tile(scene));
  }

  /** This one is played, and looks like this: address of a picture, or null where that is not known. */
  mark(scene, seed, picture) {
    this.current = scene;
    this.parts.seed.value = seed;
    for (const [id, { tile, image }] of this.tiles) {
      tile.ariaPressed = id === scene;
      if (id !== scene) continue;
      show(image, picture);
      const { list } = this.parts; // scrolled by hand: scrollIntoView would move the whole page on a phone
      list.scrollLeft = tile.offsetLeft - list.offsetLeft - (list.clientWidth - tile.offsetWidth) / 2;
    }
  }

  #again(seed) {
    this.begin(this.current ?? null, seed);
  }

  #tile({ id, name, picture }) {
    if (this.tiles.has(id)) return;
    const image = element("img", { alt: "", hidden: true });
    const tile = element("button", { type: "button", className: "tile", title: name, ariaPressed: "false" }, image);
    tile.append(element("span", { textContent: name }));
    tile.addEventListener("click", () => this.begin(id, this.seed));
    show(image, picture && address(picture));
    this.tiles.set(id, { tile, image });
    this.parts.list.append(tile);
  }
}

/** A JPEG in base64 as the address of an image. */
export function address(picture) {
  return `data:image/jpeg;base64,${picture}`;
}

function show(image, source) {
  if (source) Object.assign(image, { src: source, hidden: false });
}
