import { expect, test } from "vitest";
import { mirrorIn } from "../../../testbed/debian-mirror.ts";

test.each([
  ["a one-line source", "deb http://mirror.example/debian trixie main\n", "http://mirror.example/debian"],
  [
    "with options",
    "deb [arch=amd64 signed-by=/k.gpg] https://m.example/debian/ trixie main",
    "https://m.example/debian",
  ],
  [
    "a deb822 source",
    "Types: deb\nURIs: http://cache.example:3142/x/debian\nSuites: trixie\n",
    "http://cache.example:3142/x/debian",
  ],
  [
    "the main archive, not the one of security updates",
    "deb http://m.example/debian-security trixie-security main\ndeb http://m.example/debian trixie main",
    "http://m.example/debian",
  ],
  ["what is commented out", "# deb http://old.example/debian trixie main\n", undefined],
  ["Ubuntu's", "Types: deb\nURIs: http://archive.ubuntu.com/ubuntu\n", undefined],
  ["nothing", "", undefined],
])("%s", (_, text, mirror) => {
  expect(mirrorIn(text)).toBe(mirror);
});
