// Sends a picture to begin from. What the server would not take, as a phone's large pictures, is written anew here.

const TYPES = ["image/jpeg", "image/png", "image/webp"];
const BYTES = 1 << 20; // that the server takes
const SIDE = 1024; // pixels

/** The scene that the server made of the file. Error with a text for people if it made none. */
export async function upload(file, token) {
  const body = file.size > BYTES || !TYPES.includes(file.type) ? await rewritten(file) : file;
  const headers = { "Content-Type": body.type };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(new URL("pictures", document.baseURI), { method: "POST", headers, body });
  if (answer.ok) return (await answer.json()).scene;
  throw new Error(await reason(answer));
}

async function rewritten(file) {
  const whole = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name} is no picture that this browser can read`);
  });
  const scale = Math.min(1, SIDE / Math.max(whole.width, whole.height));
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: Math.round(whole.width * scale), height: Math.round(whole.height * scale) });
  canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
  whole.close();
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
}

async function reason(answer) {
  const text = await answer.text();
  try {
    return JSON.parse(text).error;
  } catch {
    return text || `The server did not take the picture (${answer.status})`;
  }
}
