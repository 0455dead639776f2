import { test } from "vitest";

test("is never collected", () => undefined);
throw new Error("this file cannot be loaded");
