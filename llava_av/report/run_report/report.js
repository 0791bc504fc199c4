"use strict";
// Show a button next to each command that copies it.
for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    } catch {
      // Pages from files have no clipboard in some browsers: select the command instead.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  });
}
// Make the box of each video taller than its picture, so that the controls at its end do not cover the picture.
const [tallest, controls] = [240, 72];
for (const video of document.querySelectorAll(".clip video")) {
  const fit = () => {
    const shape = video.videoWidth / video.videoHeight;
    if (!shape) return;
    const width = Math.min(video.clientWidth, tallest * shape);
    Object.assign(video.style, { width: `${width}px`, height: `${width / shape + controls}px`, maxHeight: "none" });
  };
  if (video.readyState) fit();
  else video.addEventListener("loadedmetadata", fit, { once: true });
}
