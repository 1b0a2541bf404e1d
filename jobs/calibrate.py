"""`fastbert calibrate` as a script."""

from jobs.options import command

main = command("calibrate")

if __name__ == "__main__":
    main()
