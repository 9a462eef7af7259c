// Asks a server (python -m trainer.serve) about a photo; Node 18 or later, or a browser, without packages.
//
//     node client.mjs http://127.0.0.1:8501 photo.jpg

import { readFile } from "node:fs/promises";

const [url, file] = process.argv.slice(2);
const response = await fetch(`${url}/predict`, {
  method: "POST",
  headers: { "Content-Type": "application/octet-stream" },
  body: await readFile(file), // in a browser: the File of an <input type="file">
});
const answer = await response.json();
if (response.ok) {
  for (const { label, probability } of answer.top) console.log(`${probability.toFixed(3)} ${label}`);
} else {
  console.error(`${file}: ${answer.error}`); // 400: no photo; 503: busy, try again
  process.exitCode = 1;
}
