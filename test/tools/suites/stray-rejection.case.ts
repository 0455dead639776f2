import { test } from "vitest";

test("passes, and leaves a promise behind that nobody awaits", async () => {
  void Promise.reject(new Error("nobody awaits this"));
  await new Promise((resolve) => setImmediate(resolve));
});
