// The page: takes photos, asks the model, shows what it answers. Nothing leaves the browser.
"use strict";

(() => {
  const SHOWN = 5; // answers, before all are asked for
  const find = (id) => document.getElementById(id);
  const { labels, spec } = JSON.parse(find("facts").textContent);

  // --- The model, which lies in the page ---------------------------------------------------------------------------

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(find(id).textContent), (letter) => letter.charCodeAt(0));
    find(id).remove();
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  const script = async (id) => URL.createObjectURL(new Blob([await unpacked(id)], { type: "text/javascript" }));

  /** Starts LiteRT.js; returns a function from pixels to probabilities. */
  async function loadModel() {
    const litert = await import(await script("litert"));
    self.Module = { wasmBinary: await unpacked("wasm") }; // LiteRT.js hands it to what it loads
    await litert.loadLiteRt(`${await script("glue")}#.js`);
    const model = await litert.loadAndCompile(await unpacked("model"), { accelerator: "wasm" });
    return async (pixels) => {
      const image = new litert.Tensor(pixels, [1, spec.height, spec.width, 3]);
      const answers = await model.run({ image });
      const probabilities = [...answers.probabilities.toTypedArray()];
      for (const tensor of [image, ...Object.values(answers)]) tensor.delete();
      return probabilities;
    };
  }

  // --- What is shown -----------------------------------------------------------------------------------------------

  /** Says something to everybody, also to who cannot see; `kind` is "answer", "wrong" or "soft". */
  function tell(text, kind = "soft") {
    find("told").textContent = text;
    find("told").className = kind;
  }

  /** Formats a share; nothing short of all is shown as 100. */
  function percent(share) {
    const shown = (100 * share).toFixed(1);
    return `${share < 1 && shown === "100.0" ? "99.9" : shown}\u00a0%`;
  }

  function element(name, className, text = "") {
    return Object.assign(document.createElement(name), { className, textContent: text });
  }

  function bar({ label, probability }) {
    const row = element("li", ""), track = element("span", "track"), filled = element("span", "filled");
    row.dataset.label = label;
    row.dataset.probability = probability;
    track.ariaHidden = "true";
    filled.style.width = `${100 * probability}%`;
    track.append(filled);
    row.append(element("bdi", "label", label), " ", element("span", "n", percent(probability)), track);
    return row;
  }

  function show(probabilities) {
    const answers = labels.map((label, i) => ({ label, probability: probabilities[i] }));
    answers.sort((a, b) => b.probability - a.probability);
    find("answers").replaceChildren(...answers.map(bar));
    find("all").hidden = labels.length <= SHOWN;
    showAll(false);
    find("result").hidden = false;
    return answers[0];
  }

  function showAll(every) {
    [...find("answers").children].forEach((row, place) => { row.hidden = !every && place >= SHOWN; });
    find("all").textContent = every ? `Show the first ${SHOWN} only` : `Show all ${labels.length}`;
    find("all").ariaExpanded = String(every);
  }

  function picture(file) {
    URL.revokeObjectURL(find("photo").src);
    find("photo").src = URL.createObjectURL(file);
    find("photo").alt = file.name || "the photo";
  }

  // --- What is asked -----------------------------------------------------------------------------------------------

  const model = loadModel();
  model.then(
    () => find("told").textContent || tell("The model is ready."),
    (error) => tell(`The model does not start in this browser: ${error.message}`, "wrong"),
  );
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  let turn = Promise.resolve(), last = 0;

  /** Asks the model about a file; where several come, one after another, the last one's answer stays. */
  function ask(file) {
    const number = ++last;
    turn = turn.then(() => answer(file, () => number === last));
  }

  async function answer(file, isLast) {
    if (!isLast()) return;
    tell("Looking at it …");
    try {
      const asked = await model;
      await painted();
      const start = performance.now();
      const pixels = await Pixels.ofFile(file, spec);
      const decoded = performance.now();
      const probabilities = await asked(pixels);
      const end = performance.now();
      if (!isLast()) return;
      picture(file);
      const { label, probability } = show(probabilities);
      const [whole, alone] = [end - start, end - decoded].map((one) => Math.round(one).toLocaleString("en"));
      tell(`${label}, ${percent(probability)}`, "answer");
      find("took").textContent = `It took ${whole} ms, ${alone} ms of them for the model.`;
    } catch (error) {
      if (!isLast()) return;
      find("result").hidden = true; // it is of another photo
      tell(`${file.name || "The photo"}: ${error.message}`, "wrong");
    }
  }

  // --- Where photos come from --------------------------------------------------------------------------------------

  function take(files) {
    if (files && files.length) ask(files[0]);
  }

  find("file").addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    take(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => take(event.clipboardData.files));
  find("all").addEventListener("click", () => showAll(find("all").ariaExpanded !== "true"));

  // --- The camera --------------------------------------------------------------------------------------------------

  const video = find("video");

  function closeCamera() {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    find("viewfinder").hidden = true;
    find("camera").hidden = false;
    find("camera").focus();
  }

  find("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  find("camera").addEventListener("click", async () => {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      find("viewfinder").hidden = false;
      find("camera").hidden = true;
      await video.play();
      find("snap").focus();
    } catch (error) {
      tell(`The camera cannot be used: ${error.message}`, "wrong");
    }
  });
  find("stop").addEventListener("click", closeCamera);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !find("viewfinder").hidden) closeCamera();
  });
  find("snap").addEventListener("click", () => {
    const canvas = Object.assign(element("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => { closeCamera(); ask(blob); }, "image/png");
  });
})();
