"use strict";
const byId = (id) => document.getElementById(id);
const facets = ["split", "kind", "modalities"].map((name) => [name, byId(`by-${name}`)]);
const cards = Array.from(document.querySelectorAll("article.clip"), (card) => ({
  card,
  names: Array.from(card.querySelectorAll(".name"), (one) => one.textContent.toLowerCase()).join(" "),
  samples: Array.from(card.querySelectorAll(".sample"), (sample) => [sample, sample.textContent.toLowerCase()]),
}));
const total = cards.reduce((sum, { samples }) => sum + samples.length, 0);
const apply = () => {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const { card, names, samples } of cards) {
    let visible = 0;
    for (const [sample, text] of samples) {
      sample.hidden = !(
        facets.every(([name, choice]) => !choice.value || sample.dataset[name] === choice.value) &&
        words.every((word) => text.includes(word) || names.includes(word))
      );
      visible += sample.hidden ? 0 : 1;
    }
    card.hidden = !visible;
    if (card.hidden) card.querySelectorAll("video, audio").forEach((player) => player.pause());
    count += visible;
  }
  byId("shown").textContent = `${count} of ${total} samples`;
  byId("none").hidden = count > 0;
};
byId("filter").addEventListener("input", apply);
facets.forEach(([, choice]) => choice.addEventListener("change", apply));
byId("reset").addEventListener("click", () => {
  byId("filter").value = "";
  facets.forEach(([, choice]) => { choice.value = ""; });
  apply();
});
byId("tools").hidden = false;
apply();
