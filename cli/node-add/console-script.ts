import { readFileSync } from "node:fs";

/** The program that a person runs on the device's console, and that is run over the connection as well. */
export const consoleScript = readFileSync(new URL("first-contact", import.meta.url), "utf8");
