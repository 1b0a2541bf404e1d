"""`fastbert train` as a script."""

from jobs.options import command

main = command("train")

if __name__ == "__main__":
    main()
