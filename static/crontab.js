// Beside the choice of a crontab, what it means in words.

const readable = JSON.parse(document.getElementById("readable-crontabs").textContent);
const crontab = document.getElementById("id_crontab");
const help = document.querySelector(".field-crontab .help div");
const usual = help?.textContent;
const translate = () => { help.textContent = readable[crontab.value] || usual; };
document.querySelector(".field-crontab_translation")?.remove();  // an empty line, which the package fills by script
if (crontab && help) { translate(); django.jQuery(crontab).on("change", translate); }
