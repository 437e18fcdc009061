let typed, touched = false;
document.addEventListener("input", () => { touched = true; }, true);
document.addEventListener("focusin", event => { if (event.target.matches("#prompt textarea, #negative textarea")) typed = event.target; });
document.addEventListener("click", event => {
  const button = event.target.closest("[data-insert]");
  if (!button) return;
  const text = typed ?? document.querySelector("#prompt textarea");
  text.setRangeText(button.dataset.insert, text.selectionStart, text.selectionEnd, "end");
  text.dispatchEvent(new Event("input", { bubbles: true }));
  text.focus();
});
document.addEventListener("keydown", event => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  [...document.querySelectorAll("#make, #train, #compare")].find(button => button.offsetParent)?.click();
});
// Buttons of jobs ask the server's own API.
document.addEventListener("click", async event => {
  const button = event.target.closest("[data-ask]");
  if (!button || (button.dataset.sure && !confirm(button.dataset.sure))) return;
  button.disabled = true;
  let problem = "the server does not answer";
  try {
    const answer = await fetch(button.dataset.ask, { method: button.dataset.method ?? "POST" });
    if (answer.ok) {
      button.closest(".card").hidden = button.dataset.method === "DELETE";  // until the list is drawn anew
      return;
    }
    problem = (await answer.json()).error.message;
  } catch {}
  button.disabled = false;
  const said = Object.assign(document.createElement("p"), { className: "problem", textContent: problem });
  button.closest(".card").append(said);
});
// An image of a pair stands for its button, and so do keys while the pair is to be seen.
document.addEventListener("click", event => {
  const stand = event.target.closest("[data-click]");
  if (stand) document.querySelector(stand.dataset.click).click();
});
document.addEventListener("keydown", event => {
  const meant = { ArrowLeft: "#vote-left", ArrowRight: "#vote-right", Backspace: "#vote-back" }[event.key];
  const button = meant && document.querySelector(meant);
  if (!button?.offsetParent || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, textarea")) return;
  event.preventDefault();
  button.click();
});
// What was learned goes into a prompt of the first tab.
document.addEventListener("click", event => {
  const button = event.target.closest("[data-use]");
  if (!button) return;
  const text = document.querySelector(`${button.dataset.into} textarea`);
  if (!text.value.includes(button.dataset.use)) put(text, [text.value.trim(), button.dataset.use].filter(Boolean).join(", "));
  document.querySelector("[role=tab]").click();
  text.focus();
});
// An edited caption, and an image to be removed, are sent through fields that are not to be seen.
document.addEventListener("click", event => {
  const button = event.target.closest("[data-take-out]");
  if (button) put(document.querySelector("#taken-out textarea"), button.dataset.takeOut);
});
document.addEventListener("change", event => {
  const { caption } = event.target.dataset;
  if (caption !== undefined) put(document.querySelector("#captioned textarea"), JSON.stringify({ image: caption, text: event.target.value }));
});
function put(field, text) {
  field.value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
}
