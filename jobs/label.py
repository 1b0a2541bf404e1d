"""`fastbert label` as a script."""

from jobs.options import command

main = command("label")

if __name__ == "__main__":
    main()
