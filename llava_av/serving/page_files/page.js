"use strict";

const element = (id) => document.getElementById(id);
const state = { file: null, url: null, recorder: null, answering: null, model: null, shown: 0 };

const headers = () => {
  const key = element("key").value;
  return key ? { Authorization: `Bearer ${key}` } : {};
};

function say(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

async function failure(response) {
  if (response.status === 401) element("access").hidden = false;
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `the server answered ${response.status}`);
}

async function showModel() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw await failure(response);
  state.model = (await response.json()).data[0];
  element("name").textContent = state.model.id;
  const version = state.model.version ? `version ${state.model.version}, ` : "";
  element("version").textContent = `${version}digest ${state.model.digest.slice(0, 12)}`;
}

const kindOf = (file) => file.type.split("/")[0];

function choose(file) {
  state.shown += 1;
  if (state.url) URL.revokeObjectURL(state.url);
  state.file = file;
  state.url = file && URL.createObjectURL(file);
  const kind = file ? kindOf(file) : "";
  for (const id of ["video", "audio", "image"]) {
    element(id).hidden = id !== kind;
    element(id).removeAttribute("src");
  }
  if (file && element(kind)) element(kind).src = state.url;
  element("preview").hidden = !file;
  element("clear").hidden = !file;
  element("sound").hidden = kind !== "video";
  element("frames").replaceChildren();
  element("waveform").hidden = true;
  element("sampled").textContent = "";
  element("clip").textContent = file ? `${file.name} (${Math.ceil(file.size / 1024).toLocaleString("en")} KiB)` : "No clip.";
  if (kind === "video") showFrames(state.shown);
  if (kind === "video" || kind === "audio") showWaveform(file, state.shown);
}

const once = (target, name) =>
  new Promise((resolve, reject) => {
    target.addEventListener(name, resolve, { once: true });
    target.addEventListener("error", () => reject(new Error("this browser cannot play the file")), { once: true });
  });

/** Return the length of a video; that of a recording is known only after its end was sought. */
async function lengthOf(video) {
  if (Number.isFinite(video.duration)) return video.duration;
  const known = new Promise((resolve) => {
    video.addEventListener("durationchange", () => Number.isFinite(video.duration) && resolve());
  });
  video.currentTime = Number.MAX_SAFE_INTEGER;
  await known;
  return video.duration;
}

/** Show the frames at the times at which the model samples the clip: the centres of equal intervals. */
async function showFrames(shown) {
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  video.src = state.url;
  try {
    await once(video, "loadeddata");
    const length = await lengthOf(video);
    const { frames_per_s: rate, max_frames: most } = state.model.media;
    const count = Math.max(1, Math.min(most, Math.floor(length * rate + 0.5)));
    element("sampled").textContent = `${length.toFixed(1)} s; the model sees ${count} frames`;
    for (let index = 0; index < count && shown === state.shown; index += 1) {
      const sought = once(video, "seeked");
      video.currentTime = ((index + 0.5) * length) / count;
      await sought;
      const canvas = document.createElement("canvas");
      canvas.height = 96;
      canvas.width = Math.max(1, Math.round((96 * video.videoWidth) / Math.max(1, video.videoHeight)));
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      if (shown === state.shown) element("frames").append(canvas);
    }
  } catch (error) {
    if (shown === state.shown) element("sampled").textContent = `No preview: ${error.message}; you can still ask.`;
  }
}

async function showWaveform(file, shown) {
  const context = new OfflineAudioContext(1, 1, 16000);
  // A video without audio, or a format that the browser does not know, has no waveform.
  const decoded = await context.decodeAudioData(await file.arrayBuffer()).catch(() => null);
  if (!decoded || shown !== state.shown) return;
  const canvas = element("waveform");
  canvas.hidden = false;
  canvas.width = canvas.clientWidth || 600;
  const samples = decoded.getChannelData(0);
  const drawing = canvas.getContext("2d");
  drawing.fillStyle = "#888"; // visible in both colour schemes
  for (let x = 0; x < canvas.width; x += 1) {
    const first = Math.floor((x * samples.length) / canvas.width);
    const end = Math.max(first + 1, Math.floor(((x + 1) * samples.length) / canvas.width));
    let peak = 0;
    for (let place = first; place < end; place += 1) peak = Math.max(peak, Math.abs(samples[place] ?? 0));
    const height = Math.max(1, peak * canvas.height);
    drawing.fillRect(x, (canvas.height - height) / 2, 1, height);
  }
}

async function record() {
  if (state.recorder) {
    state.recorder.stop();
    return;
  }
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
  const pieces = [];
  state.recorder = new MediaRecorder(stream);
  state.recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  state.recorder.addEventListener("stop", () => {
    for (const track of stream.getTracks()) track.stop();
    const type = state.recorder.mimeType || "video/webm";
    state.recorder = null;
    element("record").textContent = "Record";
    choose(new File(pieces, "recording", { type }));
    say("");
  });
  state.recorder.start();
  element("record").textContent = "Stop recording";
  say("recording …");
}

const dataUrl = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    // The type of a recording has commas of its own, before the content.
    reader.onload = () => resolve(`data:;base64,${reader.result.slice(reader.result.lastIndexOf(",") + 1)}`);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });

async function requestBody() {
  const content = [{ type: "text", text: element("question").value }];
  if (state.file) {
    const name = `${kindOf(state.file)}_url`;
    content.unshift({ type: name, [name]: { url: await dataUrl(state.file) } });
  }
  return JSON.stringify({
    model: state.model.id,
    messages: [{ role: "user", content }],
    stream: true,
    use_audio_in_video: element("listen").checked,
  });
}

/** Yield the events of a stream; an event of an error ends it. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new Error(parsed.error.message);
      yield parsed;
    }
  }
}

async function ask() {
  const began = performance.now();
  state.answering = new AbortController();
  element("answer").textContent = "";
  say("asking …");
  if (!state.model) await showModel();
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers() },
    body: await requestBody(),
    signal: state.answering.signal,
  });
  if (response.status === 404) state.model = null;
  if (!response.ok) throw await failure(response);
  let answered = "";
  for await (const event of eventsOf(response)) {
    answered = event.system_fingerprint;
    element("answer").textContent += event.choices[0]?.delta.content ?? "";
  }
  say(`${answered} answered in ${((performance.now() - began) / 1000).toFixed(1)} s`);
}

async function submit(event) {
  event.preventDefault();
  element("ask").disabled = true;
  element("stop").hidden = false;
  try {
    await ask();
  } catch (error) {
    const stopped = error.name === "AbortError";
    say(stopped ? "stopped" : error.message, !stopped);
  } finally {
    element("ask").disabled = false;
    element("stop").hidden = true;
  }
}

element("file").addEventListener("change", (event) => {
  if (event.target.files.length) choose(event.target.files[0]);
  event.target.value = "";
});
element("clear").addEventListener("click", () => choose(null));
element("record").addEventListener("click", () => record().catch((error) => say(`cannot record: ${error.message}`, true)));
element("stop").addEventListener("click", () => state.answering?.abort());
element("form").addEventListener("submit", submit);
element("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    element("form").requestSubmit();
  }
});
element("record").hidden = !navigator.mediaDevices || !window.MediaRecorder;
showModel().catch((error) => say(error.message, true));
