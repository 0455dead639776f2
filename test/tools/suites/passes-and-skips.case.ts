import { test } from "vitest";

test("one", () => undefined);
test("two", () => undefined);
test("three", ({ skip }) => skip("there is no TPM here"));
