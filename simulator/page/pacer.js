// Shows frames evenly: a pass brings four at once, the eye wants one every 1 / fps seconds. Over a slow connection a
// pass has lost some of its frames (header.kept says which are there); what is before a gap stands longer.

const PASSES = 2; // that may wait to be shown; what is older gives way
const SMALL = 256; // pixels across, below which they are shown as squares and not blurred

export class Pacer {
  /** Calls back: shown(header, i) for each frame that appears, failed(error) for a picture that is none. */
  constructor(canvas, shown, failed) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.shown = shown;
    this.failed = failed;
    this.queue = []; // [{bitmap, header, i, span}]; span: frames from the one before
    this.due = 0; // when the frame that is shown was, in milliseconds
    this.interval = 50;
    this.perPass = 4;
    this.skipped = 0;
    this.decoding = Promise.resolve();
    this.epoch = 0;
    requestAnimationFrame((now) => this.#tick(now));
  }

  configure({ width, height, fps, frames_per_pass: perPass }) {
    this.interval = 1000 / fps;
    this.perPass = perPass;
    this.canvas.classList.toggle("small", width < SMALL);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
  }

  /** Show one picture now, and forget what waits. */
  show(jpeg) {
    this.epoch += 1;
    this.#keep(0);
    this.#decode([jpeg], (bitmap) => this.#draw(bitmap));
  }

  /** A pass. Frames appear in order however long each takes to decode. */
  add(header, jpegs) {
    const places = header.kept ?? jpegs.map((_, i) => i);
    const span = (i) => places[i] - (places[i - 1] ?? -1);
    this.#decode(jpegs, (bitmap, i) => this.queue.push({ bitmap, header, i, span: span(i) }));
    this.decoding.then(() => (this.skipped += this.#keep(PASSES * this.perPass)));
  }

  #decode(jpegs, done) {
    const epoch = this.epoch;
    const bitmaps = Promise.all(jpegs.map((jpeg) => createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }))));
    const inOrder = async () => {
      for (const [i, bitmap] of (await bitmaps).entries()) {
        if (epoch === this.epoch) done(bitmap, i);
      }
    };
    this.decoding = this.decoding.then(inOrder).catch(this.failed);
  }

  /** Let go of all but the newest frames; how many went. */
  #keep(count) {
    const gone = this.queue.splice(0, Math.max(0, this.queue.length - count));
    for (const { bitmap } of gone) bitmap.close();
    return gone.length;
  }

  #tick(now) {
    requestAnimationFrame((later) => this.#tick(later));
    if (!this.queue.length) return;
    // More than a pass in store: a little faster, until the delay is gone.
    const step = this.queue.length > this.perPass ? 0.75 * this.interval : this.interval;
    const due = this.due + this.queue[0].span * step;
    if (now < due) return;
    this.due = now - due > this.interval ? now : due; // late: from here on, without catching up
    const { bitmap, header, i } = this.queue.shift();
    this.#draw(bitmap);
    this.shown(header, i);
  }

  #draw(bitmap) {
    this.context.drawImage(bitmap, 0, 0, this.canvas.width, this.canvas.height);
    bitmap.close();
  }
}
